"""The same clips rendered by all peers: interleaved, with the same weights, pictures and noise.

    (a)  the public formulation in eager PyTorch (plain.py), including its redundant work
    (b)  the same under torch.compile
    (c)  the same, exported unchanged, in ONNX Runtime
    (d)  ours, one peer per bundle; without bundles, our graphs' PyTorch modules on our streams

(a) in float32 is the truth. Its frames are not rounded to 8 bits and every peer's are, which limits the PSNR
that a peer can reach.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..engines.bundle import open_bundle
from ..engines.contract import DENOISING_UNET
from ..engines.device import Array
from ..engines.precision import Backend, Precision
from ..runtime.animator import Animator
from ..runtime.clip.clip import latent_shape
from ..runtime.clip.noise import seeded_noise
from ..runtime.clip.windows import KnownLength
from ..runtime.media.picture import fit, read_picture, square
from .instruments import host
from .instruments.accuracy import compare_frames
from .instruments.own_process import Failed, Make, Render, Worker
from .reporting.result import JSON, OURS, Result, Samples, describe_engines
from .reporting.samples import ratio_of_medians, summary
from .sizes import on_gpu
from .workload import Pictures, Workload

if TYPE_CHECKING:
    import torch

    from ..export.checkpoints.checkpoint import Checkpoint
    from .baselines.plain import PlainPipeline

EAGER, COMPILED = "eager PyTorch", "torch.compile"
# Steps of the two warm-up clips, in which a peer compiles, packs weights and, on repeated calls, captures
# CUDA graphs; more clips would warm up nothing further.
WARM_UP = (1, 3)
Progress = Callable[[str], None]
Networks = Callable[["torch.dtype"], "Checkpoint"]  # called in each peer's process


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
) -> Result:
    """Measure the truth and all other peers but those named in `without`. `bundles` are ours, built from the
    same networks. A peer that fails, or takes more than `limit_s` to load or for a clip, is dropped with a
    warning.

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
        for peer in in_turns:
            if peer.worker is None:
                launch(peer, workload, stack)
            warm_up(peer, WARM_UP, workload, limit_s, progress)
        for turn in range(1, rounds + 1):
            # A new order each time, so that no peer always follows the same other.
            for index in np.random.default_rng(turn).permutation(len(in_turns)):
                peer = in_turns[index]
                tick = partial(progress, f"clip {turn}/{rounds}: {peer.label}")
                take_turn(peer, turn, workload.num_steps, limit_s, tick)
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
    """Peers that run the public formulation, the truth first. On a GPU also in float16, which the public
    projects use there."""
    gpu = on_gpu()
    peers = [
        Peer(name, precision, partial(make, networks, precision))
        for precision in (("fp32", "fp16") if gpu else ("fp32",))
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


def load_ours(bundle: Path, workload: Workload) -> Render:
    return our_render(Animator.load(bundle), workload)


def load_our_modules(networks: Networks, precision: Precision, workload: Workload) -> Render:
    import torch

    from .baselines.torch_engine import bundle_of, engines_of

    loaded = networks(torch.float16 if precision == "fp16" else torch.float32)
    bundle = bundle_of(loaded, workload.bucket, precision)
    return our_render(Animator(bundle, load=engines_of(lambda _dtype: loaded)), workload)


def our_render(animator: Animator, workload: Workload) -> Render:
    """Renders with `animator`. The reference is computed for every clip, as the other peers do."""
    animator.session.engine(DENOISING_UNET)  # loads it here and not in the first clip

    def render(clip: int, pictures: Pictures, steps: int) -> Array:
        animator.references.clear()
        return np.stack(list(workload.animate(animator, clip, pictures, steps)))

    return render


def load_eager(networks: Networks, precision: str, workload: Workload) -> Render:
    from .baselines.plain import PlainPipeline

    loaded = load_networks(networks)
    return public_render(PlainPipeline(loaded), loaded, precision, workload)


def load_compiled(networks: Networks, precision: str, workload: Workload) -> Render:
    import torch

    from .baselines.public_parts import PublicLoop, public_parts

    loaded = load_networks(networks)
    parts = {name: torch.compile(part, dynamic=False) for name, part in public_parts(loaded).items()}
    return public_render(PublicLoop(loaded, parts), loaded, precision, workload)


def load_exported(networks: Networks, workload: Workload) -> Render:
    from .baselines.public_parts import ExportedPart, PublicLoop, public_parts

    loaded = load_networks(networks)
    folder = tempfile.TemporaryDirectory(prefix="animate-rt-peer-")
    parts = {name: ExportedPart(name, part, Path(folder.name)) for name, part in public_parts(loaded).items()}
    render = public_render(PublicLoop(loaded, parts), loaded, "fp32", workload)

    def render_in_folder(clip: int, pictures: Pictures, steps: int) -> Array:
        assert folder  # this reference keeps the temporary folder alive
        return render(clip, pictures, steps)

    return render_in_folder


def from_files(checkpoint: Path, inference_config: Path | None, dtype: torch.dtype) -> Checkpoint:
    from ..export import load_checkpoint

    return load_checkpoint(checkpoint, inference_config, dtype)


def drawn(size: str, dtype: torch.dtype) -> Checkpoint:
    from .random_checkpoint import random_networks

    return random_networks(size, dtype)


def load_networks(networks: Networks) -> Checkpoint:
    """The networks in float32, on the GPU if there is one."""
    import torch

    loaded = networks(torch.float32)
    if on_gpu():
        torch.backends.cudnn.allow_tf32 = False  # the truth must not round to TF32
        parts = loaded.denoising_unet, loaded.reference_net, loaded.pose_guider, loaded.vae
        for network in (*parts, loaded.image_encoder):
            network.cuda()
    return loaded


def public_render(pipeline: PlainPipeline, loaded: Checkpoint, precision: str, workload: Workload) -> Render:
    """Renders with the public formulation, on the GPU if there is one; frames are not rounded."""
    import torch

    from .baselines.torch_engine import bundle_of

    device, bucket = "cuda" if on_gpu() else "cpu", workload.bucket
    manifest = bundle_of(loaded, bucket, "fp32").manifest
    settings = workload.options.resolve(manifest)
    windows = list(settings.windows(KnownLength(workload.frames)))

    def render(clip: int, pictures: Pictures, steps: int) -> Array:
        picture = read_picture(pictures.reference)
        side = manifest.model.image_encoder.image_size
        arrays = (
            fit(picture, bucket.width, bucket.height)[None],
            square(picture, side)[None],
            pictures.pose,
            seeded_noise(settings.seed + clip, range(workload.frames), latent_shape(manifest)),
        )
        half = torch.autocast(device, torch.float16, enabled=precision == "fp16")
        with half:
            frames = pipeline(
                *(torch.from_numpy(array).to(device) for array in arrays),
                steps=steps,
                guidance_scale=settings.guidance_scale,
                windows=windows,
            )
        result: Array = (frames.float().permute(0, 2, 3, 1) * 255).cpu().numpy()
        return result

    return render
