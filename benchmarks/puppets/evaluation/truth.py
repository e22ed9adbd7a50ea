"""The true frames of a scene, and the quality of a clip compared with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...instruments.accuracy import compare_frames, psnr
from ..training.stage import Figures
from ..world.scene import Picture, Scene, Split
from .clothes import clothes_likeness
from .features import feature_distance
from .histories import Histories
from .limbs import limbs_found
from .sharpness import sharpness

HELD_OUT_SEEDS = range(1000, 1_000_000)  # training evaluates scenes with seeds below 1000


class Truth:
    """The first frames of a held-out scene, (n, size, size, 3), with their masks and keypoints."""

    def __init__(self, scene: Scene, frames: int):
        numbers = range(frames)
        self.reference = scene.reference()
        self.poses = np.stack([scene.pose(i) for i in numbers])
        self.frames = np.stack([scene.frame(i) for i in numbers])
        self.character = np.stack([scene.mask(i) for i in numbers])
        self.clothes = np.stack([scene.clothes(i) for i in numbers])
        self.keypoints = np.stack([scene.keypoints(i) for i in numbers])
        self.histories = Histories(scene, frames) if scene.is_soft else None

    def figures(self, made: Picture) -> Figures:
        """The quality of generated frames, as many as there are true ones:

        psnr_db, ssim   of whole frames
        character_db    PSNR of the character's pixels only, so that a plain background cannot raise it
        clothes         fraction of the clothes that has the true colours, 0 to 1 (clothes.py)
        limbs           fraction of elbows, wrists, knees and ankles found where they should be (limbs.py)
        sharpness       gradient energy of the character relative to the truth's (sharpness.py)
        features        perceptual distance, 0 if equal (features.py)
        flicker         RMS difference between generated and true changes from frame to frame, in 0 to 255

        and of soft scenes open_flicker and consistency (histories.py).
        """
        whole = compare_frames(made, self.frames)
        errors = (made.astype(np.float32) - self.frames) ** 2
        figures = {
            "psnr_db": whole["psnr_db"],
            "ssim": whole["ssim"],
            "character_db": psnr(float(errors[self.character].mean())),
            "clothes": clothes_likeness(made, self.frames, self.clothes),
            "limbs": limbs_found(made, self.frames, self.keypoints),
            "sharpness": sharpness(made, self.frames, self.character),
            "features": feature_distance(made, self.frames),
            "flicker": whole["flicker"],
            **(self.histories.figures(made) if self.histories else {}),
        }
        return {name: float("inf") if figure is None else figure for name, figure in figures.items()}


def held_out(count: int, frames: int, size: int, split: Split = "held-out") -> list[Truth]:
    return [Truth(Scene(split, seed, size), frames) for seed in HELD_OUT_SEEDS[:count]]


def mean_figures(figures: Sequence[Figures]) -> Figures:
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
