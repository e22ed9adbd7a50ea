"""A bundle without weights, and engines of simple arithmetic whose UNet takes a fixed time and no CPU.

They are for tests of processes that start and die. Child processes can import this module.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from animate_rt.engines.bundle import open_bundle, seal
from animate_rt.engines.contract import DENOISING_UNET, ShapeBucket, contracts
from animate_rt.engines.device import Buffer
from animate_rt.engines.manifest import Manifest
from animate_rt.engines.model import (
    ImageEncoderConfig,
    ModelConfig,
    MotionConfig,
    NoiseConfig,
    UNetConfig,
    VAEConfig,
)
from animate_rt.errors import DeviceError, OutOfMemory
from animate_rt.runtime.animator import Animator
from animate_rt.runtime.clip.options import options_of
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.runtime.shots.shot import Shot
from PIL import Image

from .arithmetic import ArithmeticContext, ArithmeticEngine

WIDTH, HEIGHT, WINDOW = 64, 64, 4
BUCKET = ShapeBucket(width=WIDTH, height=HEIGHT, window=WINDOW)
SUICIDAL_SEED = 666  # a shot with this seed kills its process
TIRED_SEED = 667  # a shot with this seed runs out of memory, the first time
MODEL = ModelConfig(
    unet=UNetConfig(
        widths=(32, 32),
        layers_per_block=1,
        heads=(4, 4),
        attention=(True, False),
        cross_attention_dim=32,
        norm_groups=32,
        norm_eps=1e-5,
        latent_channels=4,
    ),
    motion=MotionConfig(levels=(True, True), mid=True, heads=4, blocks=1, attentions=2, max_frames=32),
    pose_channels=(8, 16, 32, 48),
    vae=VAEConfig(
        widths=(32, 32, 32, 32), layers_per_block=1, norm_groups=32, latent_channels=4, scaling_factor=0.18
    ),
    image_encoder=ImageEncoderConfig(
        image_size=32,
        patch_size=16,
        width=32,
        layers=1,
        heads=4,
        mlp_width=64,
        projection_dim=32,
        activation="quick_gelu",
        norm_eps=1e-5,
    ),
    noise=NoiseConfig(),
)


def hollow_bundle(folder: Path, bucket: ShapeBucket = BUCKET, *, feature_cache: bool = False) -> Path:
    """A bundle whose files are empty, sealed and verified like any other."""
    for kind in ("graphs", "engines"):
        (folder / kind).mkdir(parents=True)
    manifest = Manifest(
        model=MODEL,
        bucket=bucket,
        backend="openvino",
        backend_version="none",
        compute_capabilities=(),
        precision="fp32",
        weights={},
        graphs=contracts(MODEL, bucket, "float32", feature_cache=feature_cache),
        feature_cache=feature_cache,
    )
    for name in manifest.used_files:
        (folder / name).touch()
    seal(folder, manifest)
    return folder


def write_inputs(
    folder: Path,
    num_poses: int,
    references: Iterable[str] = ("reference.png",),
    *,
    feature_cache: bool = False,
) -> Path:
    """Write bundle/, pose/ with `num_poses` random pictures, and random references."""
    hollow_bundle(folder / "bundle", feature_cache=feature_cache)
    (folder / "pose").mkdir()
    chance = np.random.default_rng(0)
    for name in (*(f"pose/{i:03}.png" for i in range(num_poses)), *references):
        picture = chance.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(picture).save(folder / name)
    return folder


class FixedCostContext(ArithmeticContext):
    cost_s = 0.0

    def run(self, bound: dict[str, Buffer]) -> None:
        if self.engine.graph.startswith(DENOISING_UNET):
            time.sleep(self.cost_s)
        super().run(bound)


class FixedCostEngine(ArithmeticEngine):
    def __init__(self, bundle, graph, device, cost_s: float = 0.0):
        super().__init__(bundle, graph, device)
        self.graph, self.cost_s = graph, cost_s

    def context(self, _workspace: Buffer | None) -> FixedCostContext:
        context = FixedCostContext(self)
        context.cost_s = self.cost_s
        return context


def open_animator(bundle: Path, cost_s: float = 0.0) -> Animator:
    return Animator(open_bundle(bundle), load=partial(FixedCostEngine, cost_s=cost_s))


class TroubledAnimator(Animator):
    """Fails for some shots, or for all; marker files in `folder` record what has happened before."""

    def __init__(self, bundle: Path, folder: Path, broken: int):
        super().__init__(open_bundle(bundle), load=FixedCostEngine)
        self.folder = folder
        self.broken = any(first(folder / f"broken{i}") for i in range(broken))

    def animate(self, *arguments, **options):
        if self.broken:
            raise DeviceError("its context is dead")
        seed = arguments[2].seed
        if seed == SUICIDAL_SEED:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == TIRED_SEED and first(self.folder / "tired"):
            raise OutOfMemory("no room")
        return super().animate(*arguments, **options)


def open_troubled_animator(bundle: Path, folder: Path, broken: int = 0) -> Animator:
    """The devices of the first `broken` processes are broken."""
    return TroubledAnimator(bundle, folder, broken)


class Unreachable:
    """An `open_animator` that kills each process that unpickles it, except the first `survivors`."""

    def __init__(self, folder: Path, survivors: int):
        self.folder, self.survivors = folder, survivors

    def __setstate__(self, state):
        self.__dict__.update(state)
        if not any(first(self.folder / f"survivor{i}") for i in range(self.survivors)):
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, bundle: Path) -> Animator:
        return open_animator(bundle, cost_s=0.03)


def first(note: Path) -> bool:
    """Whether this is the first call with this marker file."""
    try:
        note.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def main(folder: str, output: str, windows: str, num_steps: str, cost_s: str) -> None:
    """Make one shot, in a process that a test kills."""
    shot = example(Path(folder), Path(output), windows=windows, steps=int(num_steps))
    with open_animator(shot.bundle, float(cost_s)) as animator:
        make(shot, animator)


def example(folder: Path, output: Path, **given) -> Shot:
    """A shot of the inputs in `folder`; `given` are clip options and fields of the shot."""
    options = options_of(given)
    return Shot(
        name="example",
        bundle=folder / "bundle",
        reference=folder / "reference.png",
        pose=folder / "pose",
        output=Output.at(os.fspath(output)),
        options=options,
        **{name: value for name, value in given.items() if not hasattr(options, name)},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
