"""Ways to render the clips of `bench peers`; each is loaded in a process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..engines.contract import DENOISING_UNET
from ..engines.device import Array
from ..engines.precision import Precision
from ..runtime.animator import Animator
from ..runtime.clip.clip import latent_shape
from ..runtime.clip.noise import seeded_noise
from ..runtime.clip.windows import KnownLength
from ..runtime.media.picture import fit, read_picture, square
from .instruments.own_process import Render
from .sizes import on_gpu
from .workload import Pictures, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..export.checkpoints.checkpoint import Checkpoint
    from .baselines.plain import PlainPipeline

    Networks = Callable[["torch.dtype"], Checkpoint]  # called in each peer's process


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
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        with torch.autocast(device, half, enabled=half is not None):
            frames = pipeline(
                *(torch.from_numpy(array).to(device) for array in arrays),
                steps=steps,
                guidance_scale=settings.guidance_scale,
                windows=windows,
            )
        result: Array = (frames.float().permute(0, 2, 3, 1) * 255).cpu().numpy()
        return result

    return render
