"""The clips of a benchmark: their size, options and generated pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ..engines.device import Array
from ..runtime.animator import Animator
from ..runtime.clip.frames import Frames
from ..runtime.clip.options import ClipOptions


class Pictures(NamedTuple):
    """The inputs of a clip."""

    reference: Array  # uint8 (H, W, 3)
    pose: Array  # uint8 (frames, H, W, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Clips of one size. Each clip number has its own pictures and noise, the same in every run."""

    width: int
    height: int
    frames: int
    window: int
    overlap: int
    steps: int
    guidance_scale: float
    windows: str = "uniform"
    order: str | None = None
    fps: int = 24  # frame rate of the video
    seed: int = 42

    @property
    def duration_s(self) -> float:
        return self.frames / self.fps

    def pictures(self, clip: int) -> Pictures:
        """Squares of random colours, which move sideways in the pose frames."""
        generator = np.random.default_rng([self.seed, clip])
        side = 8
        coarse = generator.integers(0, 256, (2, self.height // side + 1, self.width // side + 1, 3))
        reference, pose = np.kron(coarse, np.ones((1, side, side, 1))).astype(np.uint8)
        size = slice(self.height), slice(self.width)
        moved = np.stack([np.roll(pose, 2 * frame, axis=1)[size] for frame in range(self.frames)])
        return Pictures(np.ascontiguousarray(reference[size]), moved)

    def animate(self, animator: Animator, clip: int, pictures: Pictures, steps: int | None = None) -> Frames:
        """Animate a clip; `steps` overrides the workload's number of steps."""
        return animator.animate(pictures.reference, list(pictures.pose), self.options(clip, steps))

    def options(self, clip: int, steps: int | None = None) -> ClipOptions:
        return ClipOptions(
            steps=steps or self.steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed + clip,
            windows=self.windows,
            overlap=self.overlap,
            order=self.order,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
