"""The same clips rendered by all peers: interleaved, with the same weights, pictures and noise.

    (a)  the public formulation in eager PyTorch (plain.py), including its redundant work
    (b)  the same under torch.compile
    (c)  the same, exported unchanged, in ONNX Runtime
    (d)  ours, one peer per bundle; without bundles, our graphs' PyTorch modules on our streams

(a) in float32 is the truth. Its frames are not rounded to 8 bits and every peer's are, which limits the PSNR
that a peer can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..engines.bundle import open_bundle
from ..engines.device import Array
from ..engines.precision import Backend, Precision
from .instruments import host
from .instruments.accuracy import compare_frames
from .instruments.own_process import Failed, Make, Worker
from .renderers import load_compiled, load_eager, load_exported, load_our_modules, load_ours
from .reporting.result import JSON, OURS, Result, Samples, describe_engines
from .reporting.samples import ratio_of_medians, summary
from .sizes import computes_bf16, on_gpu
from .workload import Workload

if TYPE_CHECKING:
    from .renderers import Networks

EAGER, COMPILED = "eager PyTorch", "torch.compile"
# Steps of the two warm-up clips, in which a peer compiles, packs weights and, on repeated calls, captures
# CUDA graphs; more clips would warm up nothing further.
WARM_UP = (1, 3)
Progress = Callable[[str], None]


@dataclass(slots=True)
class Peer:
    """One way to render the clips, and its measurements."""

    name: str
    precision: str
    make: Make
    worker: Worker | None = None
    load_s: float | None = None
    warm_up_s: float | None = None
    peak_bytes: int | None = None
    seconds: list[float] = field(default_factory=list)
    frames: Array | None = None  # of clip 1
    failure: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.precision}"


def bench_peers(
    networks: Networks,
    bundles: list[Path],
    workload: Workload,
    rounds: int,
    limit_s: float,
    progress: Progress,
    *,
    without: Iterable[str] = (),
    quick: bool = False,
    alone: bool = False,
) -> Result:
    """Measure the truth and all other peers but those named in `without`. `bundles` are ours, built from the
    same networks. A peer that fails, or takes more than `limit_s` to load or for a clip, is dropped with a
    warning.

    With `alone`, a peer renders all its clips and ends before the next one starts, as the machine's memory
    does not hold several; otherwise the peers take turns.

    `quick` is for a GPU that is available only for minutes: all peers load at the same time, fp32 peers other
    than the truth are left out if there are fp16 ones, and the truth renders one clip alone and ends before
    the others start.
    """
    warnings = host.busy_warnings()
    truth, others = participants(networks, bundles, without, quick)
    peers = [truth, *others]
    in_turns = others if quick else peers
    with ExitStack() as stack:
        if quick:
            for peer in peers:
                launch(peer, workload, stack)
            measure_one_clip(truth, workload, limit_s, progress)
        for group in [[peer] for peer in in_turns] if alone else [in_turns]:
            for peer in group:
                if peer.worker is None:
                    launch(peer, workload, stack)
                warm_up(peer, WARM_UP, workload, limit_s, progress)
            for turn in range(1, rounds + 1):
                # A new order each time, so that no peer always follows the same other.
                for index in np.random.default_rng(turn).permutation(len(group)):
                    peer = group[index]
                    tick = partial(progress, f"clip {turn}/{rounds}: {peer.label}")
                    take_turn(peer, turn, workload.num_steps, limit_s, tick)
            for peer in group:
                end(peer)
    samples: Samples = {peer.label: peer.seconds for peer in peers if peer.seconds}
    warnings += [f"{peer.label}: {peer.failure}" for peer in peers if peer.failure]
    return Result(
        kind="peers",
        workload=workload.as_json(),
        engines=[engine for bundle in bundles for engine in describe_engines(open_bundle(bundle))],
        results={"truth": truth.label, "alone": alone, "peers": [row(peer, truth) for peer in peers]},
        samples=samples,
        warnings=warnings,
    )


def participants(
    networks: Networks, bundles: list[Path], without: Iterable[str], quick: bool
) -> tuple[Peer, list[Peer]]:
    """The truth, and the other peers."""
    truth, *others = public_peers(networks)
    others += map(our_peer, bundles) if bundles else [our_modules(networks)]
    half_only = quick and any(peer.precision == "fp16" for peer in others)
    return truth, [
        peer for peer in others if peer.name not in without and not (half_only and peer.precision == "fp32")
    ]


def launch(peer: Peer, workload: Workload, stack: ExitStack) -> None:
    peer.worker = stack.enter_context(Worker(peer.make, workload, lambda: None))


def warm_up(peer: Peer, clips: Iterable[int], workload: Workload, limit_s: float, progress: Progress) -> None:
    """Wait until the peer has loaded, then render clip 0 with each number of steps in `clips`; `samples` does
    not include these."""
    assert peer.worker is not None
    peer.worker.tick = partial(progress, f"load: {peer.label}")
    try:
        peer.load_s = peer.worker.load(limit_s)
        peer.warm_up_s = sum(
            peer.worker.render(0, min(steps, workload.num_steps), limit_s).seconds for steps in clips
        )
    except Failed as error:
        drop(peer, error)


def measure_one_clip(peer: Peer, workload: Workload, limit_s: float, progress: Progress) -> None:
    """All the truth does with `quick`: load, warm up, render clip 1 and end."""
    warm_up(peer, [1], workload, limit_s, progress)
    take_turn(peer, 1, workload.num_steps, limit_s, partial(progress, f"clip 1: {peer.label}"))
    end(peer)


def end(peer: Peer) -> None:
    assert peer.worker is not None
    peer.worker.close()


def take_turn(peer: Peer, clip: int, steps: int, limit_s: float, tick: Callable[[], None]) -> None:
    tick()
    if peer.failure is None:
        assert peer.worker is not None
        peer.worker.tick = tick
        try:
            rendered = peer.worker.render(clip, steps, limit_s)
            peer.seconds.append(rendered.seconds)
            peer.peak_bytes = rendered.peak_bytes
            if peer.frames is None:
                peer.frames = rendered.frames
        except Failed as error:
            drop(peer, error)


def drop(peer: Peer, error: Failed) -> None:
    assert peer.worker is not None
    peer.failure = str(error)
    peer.worker.process.kill()  # or it would slow down the others


def row(peer: Peer, truth: Peer) -> JSON:
    measured = bool(peer.seconds and truth.seconds)
    compared = peer.frames is not None and truth.frames is not None
    return {
        "name": peer.name,
        "precision": peer.precision,
        "clip_s": summary(peer.seconds) if peer.seconds else None,
        "speedup": ratio_of_medians(truth.seconds, peer.seconds)._asdict() if measured else None,
        "load_s": peer.load_s,
        "warm_up_s": peer.warm_up_s,
        "peak_bytes": peer.peak_bytes,
        "accuracy": compare_frames(eight_bit(peer.frames), truth.frames) if compared else None,
        "failure": peer.failure,
    }


def eight_bit(frames: Array | None) -> Array:
    assert frames is not None
    return frames.round().astype(np.uint8)


def public_peers(networks: Networks) -> list[Peer]:
    """Peers that run the public formulation, the truth first. Also in half precision: float16 on a GPU, and
    bfloat16 on a CPU that computes in it."""
    gpu = on_gpu()
    half = ["fp16"] if gpu else ["bf16"] if computes_bf16() else []
    peers = [
        Peer(name, precision, partial(make, networks, precision))
        for precision in ("fp32", *half)
        for name, make in ((EAGER, load_eager), (COMPILED, load_compiled))
    ]
    return [*peers, *([] if gpu else [Peer("ONNX Runtime", "fp32", partial(load_exported, networks))])]


def our_peer(bundle: Path) -> Peer:
    manifest = open_bundle(bundle).manifest
    backend: Backend = manifest.backend
    precision: Precision = manifest.precision
    return Peer(f"{OURS}, {backend}", precision, partial(load_ours, bundle))


def our_modules(networks: Networks) -> Peer:
    precision: Precision = "fp16" if on_gpu() else "fp32"
    return Peer(f"{OURS}, PyTorch", precision, partial(load_our_modules, networks, precision))
