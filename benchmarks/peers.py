"""The same clips by everyone: interleaved, on the same weights, pictures and noise.

    (a)  the public formulation in eager PyTorch (plain.py), its double work included
    (b)  the same under torch.compile
    (c)  the same, exported as it is, in ONNX Runtime
    (d)  ours, by precision and backend

(a) in float32 is the truth; what rounding its frames to 8 bits costs is the most any peer can reach.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.bundle import Backend, Precision, open_bundle
from ..engines.contract import DENOISING_UNET
from ..engines.device import Array
from ..runtime.animator import Animator
from ..runtime.noise import seeded_noise
from ..runtime.picture import fit, read_picture, square
from ..runtime.windows import POLICIES, Known
from . import host
from .accuracy import compare_frames
from .result import JSON, OURS, Result, Samples, describe_engines
from .samples import ratio_of_medians, summary
from .worker import Failed, Make, Render, Worker
from .workload import Pictures, Workload

EAGER = "eager PyTorch"
WARM_UP_STEPS = 3  # compile, pack weights, capture CUDA graphs; more of the same warms nothing
Progress = Callable[[str], None]


@dataclass(slots=True)
class Peer:
    """Who takes part, and what became of it."""

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
    checkpoint: Path,
    bundles: list[Path],
    workload: Workload,
    rounds: int,
    limit_s: float,
    progress: Progress,
    inference_config: Path | None = None,
) -> Result:
    """`bundles` are ours, built from the checkpoint. A peer that fails, or takes more than `limit_s` to load
    or for a clip, is left out and a warning says so."""
    warnings = host.busy()
    peers = [*public_peers(checkpoint, inference_config), *map(our_peer, bundles)]
    with ExitStack() as stack:
        for peer in peers:
            tick = partial(progress, f"load: {peer.label}")
            start(peer, workload, limit_s, stack, tick)
        for turn in range(1, rounds + 1):
            for index in np.random.default_rng(turn).permutation(len(peers)):  # no one always follows another
                tick = partial(progress, f"clip {turn}/{rounds}: {peers[index].label}")
                take_turn(peers[index], turn, workload.steps, limit_s, tick)
    truth = next(peer for peer in peers if peer.name == EAGER and peer.precision == "fp32")
    samples: Samples = {peer.label: peer.seconds for peer in peers if peer.seconds}
    warnings += [f"{peer.label}: {peer.failure}" for peer in peers if peer.failure]
    return Result(
        kind="peers",
        workload=workload.as_json(),
        engines=[engine for bundle in bundles for engine in describe_engines(open_bundle(bundle))],
        results={"truth": truth.label, "peers": [row(peer, truth) for peer in peers]},
        samples=samples,
        warnings=warnings,
    )


def start(peer: Peer, workload: Workload, limit_s: float, stack: ExitStack, tick: Callable[[], None]) -> None:
    """Load it and let it render a few steps of clip 0, which is not timed."""
    peer.worker = stack.enter_context(Worker(peer.make, workload, tick))
    try:
        peer.load_s = peer.worker.load(limit_s)
        steps = min(WARM_UP_STEPS, workload.steps)
        peer.warm_up_s = peer.worker.render(0, steps, limit_s).seconds
    except Failed as error:
        give_up(peer, error)


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
            give_up(peer, error)


def give_up(peer: Peer, error: Failed) -> None:
    assert peer.worker is not None
    peer.failure = str(error)
    peer.worker.process.kill()  # or it would take time from the others


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


def public_peers(checkpoint: Path, inference_config: Path | None) -> list[Peer]:
    """On a GPU in float16 too, where the public projects run them."""
    import torch

    gpu = torch.cuda.is_available()
    arguments = (checkpoint, inference_config)
    peers = [
        Peer(name, precision, partial(make, *arguments, precision))
        for precision in (("fp32", "fp16") if gpu else ("fp32",))
        for name, make in ((EAGER, eager), ("torch.compile", compiled))
    ]
    return [*peers, *([] if gpu else [Peer("ONNX Runtime", "fp32", partial(exported, *arguments))])]


def our_peer(bundle: Path) -> Peer:
    manifest = open_bundle(bundle).manifest
    backend: Backend = manifest.backend
    precision: Precision = manifest.precision
    return Peer(f"{OURS}, {backend}", precision, partial(ours, bundle))


def ours(bundle: Path, workload: Workload) -> Render:
    """The reference is computed for every clip, as by everyone else."""
    animator = Animator.load(bundle)
    animator.engine(DENOISING_UNET)  # or the first clip would load it

    def render(clip: int, pictures: Pictures, steps: int) -> Array:
        animator.references.clear()
        return np.stack(list(workload.animate(animator, clip, pictures, steps)))

    return render


def eager(checkpoint: Path, inference_config: Path | None, precision: str, workload: Workload) -> Render:
    from .plain import PlainPipeline

    return public(PlainPipeline(load(checkpoint, inference_config)), precision, workload)


def compiled(checkpoint: Path, inference_config: Path | None, precision: str, workload: Workload) -> Render:
    import torch

    from .public_parts import PublicLoop, public_parts

    loaded = load(checkpoint, inference_config)
    parts = {name: torch.compile(part, dynamic=False) for name, part in public_parts(loaded).items()}
    return public(PublicLoop(loaded, parts), precision, workload)


def exported(checkpoint: Path, inference_config: Path | None, workload: Workload) -> Render:
    from .public_parts import ExportedPart, PublicLoop, public_parts

    loaded = load(checkpoint, inference_config)
    folder = tempfile.TemporaryDirectory(prefix="animate-rt-peer-")
    parts = {name: ExportedPart(name, part, Path(folder.name)) for name, part in public_parts(loaded).items()}
    render = public(PublicLoop(loaded, parts), "fp32", workload)

    def kept(clip: int, pictures: Pictures, steps: int) -> Array:  # keeps the folder too
        assert folder
        return render(clip, pictures, steps)

    return kept


def load(checkpoint: Path, inference_config: Path | None) -> Any:
    """On the GPU if there is one."""
    import torch

    from ..export import load_checkpoint

    loaded = load_checkpoint(checkpoint, inference_config)
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # the truth is float32 all the way
        networks = loaded.denoising_unet, loaded.reference_net, loaded.pose_guider, loaded.vae
        for network in (*networks, loaded.image_encoder):
            network.cuda()
    return loaded


def public(pipeline: Any, precision: str, workload: Workload) -> Render:
    """Frames of the public formulation, not rounded; on the GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy, config = POLICIES[workload.windows], pipeline.networks.config
    windows = list(policy(Known(workload.frames), workload.window, workload.overlap))
    scale = config.latent_scale
    latent_shape = (config.unet.latent_channels, workload.height // scale, workload.width // scale)

    def render(clip: int, pictures: Pictures, steps: int) -> Array:
        picture = read_picture(pictures.reference)
        side = config.image_encoder.image_size
        arrays = (
            fit(picture, workload.width, workload.height)[None],
            square(picture, side)[None],
            pictures.pose,
            seeded_noise(workload.seed + clip, range(workload.frames), latent_shape),
        )
        half = torch.autocast(device, torch.float16, enabled=precision == "fp16")
        with half:
            frames = pipeline(
                *(torch.from_numpy(array).to(device) for array in arrays),
                steps=steps,
                guidance_scale=workload.guidance_scale,
                windows=windows,
            )
        result: Array = (frames.float().permute(0, 2, 3, 1) * 255).cpu().numpy()
        return result

    return render
