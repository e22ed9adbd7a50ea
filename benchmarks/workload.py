"""The clips of a benchmark: their size, options and generated pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Unpack

import numpy as np

from ..engines.contract import ShapeBucket
from ..engines.device import Array
from ..runtime.animator import Animator
from ..runtime.clip.frames import Frames
from ..runtime.clip.options import ClipOptions, OptionKeywords, options_with


class Pictures(NamedTuple):
    """The inputs of a clip."""

    reference: Array  # uint8 (H, W, 3)
    pose: Array  # uint8 (frames, H, W, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Clips of one size. Each clip number has its own pictures and noise, the same in every run.

    Of the options, `steps`, `guidance_scale` and `overlap` are given, so that a result states them.
    """

    bucket: ShapeBucket
    frames: int
    options: ClipOptions
    fps: int = 24  # frame rate of the video

    @property
    def num_steps(self) -> int:
        steps = self.options.steps
        assert steps is not None
        return steps if isinstance(steps, int) else len(steps)

    @property
    def duration_s(self) -> float:
        return self.frames / self.fps

    def pictures(self, clip: int) -> Pictures:
        """Squares of random colours, which move sideways in the pose frames."""
        generator = np.random.default_rng([self.options.seed, clip])
        side, width, height = 8, self.bucket.width, self.bucket.height
        coarse = generator.integers(0, 256, (2, height // side + 1, width // side + 1, 3))
        reference, pose = np.kron(coarse, np.ones((1, side, side, 1))).astype(np.uint8)
        size = slice(height), slice(width)
        moved = np.stack([np.roll(pose, 2 * frame, axis=1)[size] for frame in range(self.frames)])
        return Pictures(np.ascontiguousarray(reference[size]), moved)

    def animate(self, animator: Animator, clip: int, pictures: Pictures, steps: int | None = None) -> Frames:
        """Animate a clip; `steps` overrides the workload's number of steps."""
        options = replace(self.options, seed=self.options.seed + clip, steps=steps or self.options.steps)
        return animator.animate(pictures.reference, list(pictures.pose), options)

    def with_options(self, **options: Unpack[OptionKeywords]) -> Workload:
        """Return the workload with some of its options replaced."""
        return replace(self, options=options_with(self.options, options))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self.bucket), "frames": self.frames, **asdict(self.options), "fps": self.fps}
