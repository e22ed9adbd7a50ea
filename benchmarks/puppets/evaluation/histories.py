"""What a single frame of a soft scene leaves open: whether a clip moves it truly and consistently.

A pose looks different after other frames (world/soft.py, world/lively.py). Each frame of a clip may therefore
be plausible alone, and the clip still be wrong: its soft parts jump, or do not swing.
"""

from __future__ import annotations

import numpy as np

from ..training.stage import Figures
from ..world.drawing import Array
from ..world.scene import Mask, Picture, Scene

SHIFTS = range(-12, 13, 2)  # frames from a frame to the histories that its soft parts are compared with


class Histories:
    """The open pixels of a soft scene's first frames, and how they look after other histories."""

    def __init__(self, scene: Scene, frames: int):
        self.true = np.stack([scene.frame(i) for i in range(frames)])
        self.open: Mask = np.stack([scene.open(i) for i in range(frames)])  # (n, H, W)
        # Of each frame (len(SHIFTS), pixels, 3): its open pixels with the history of each shift.
        self.looks = [
            np.stack([scene.frame(i, i + shift)[self.open[i]] for shift in SHIFTS]).astype(np.float32)
            for i in range(frames)
        ]

    def figures(self, made: Picture) -> Figures:
        """Of generated frames (n, H, W, 3), as many as there are true ones:

        open_flicker  RMS difference between generated and true changes from frame to frame, in 0 to 255, of
                      the pixels that are open in either frame; `flicker` is that of all pixels
        consistency   1 if the soft parts of each frame are those of the frame before, one frame later, though
                      not necessarily at the true moment; 0 if each frame had a history of its own
        """
        changed = self.open[1:] | self.open[:-1]
        error = (np.diff(made.astype(np.float32), axis=0) - np.diff(self.true.astype(np.float32), axis=0))[
            changed
        ]
        return {"open_flicker": rms(error), "consistency": self.consistency(made)}

    def consistency(self, made: Picture) -> float:
        """Each generated frame shows the history that it is closest to. Compare that of the frame before with
        it, both drawn in this frame, relative to the difference of any two histories."""
        shown = [
            int(((looks - frame[mask]) ** 2).sum(axis=(1, 2)).argmin())
            for looks, frame, mask in zip(self.looks, made, self.open, strict=True)
        ]
        jumps = sum(
            float(((looks[before] - looks[now]) ** 2).sum())
            for looks, before, now in zip(self.looks[1:], shown, shown[1:], strict=False)
        )
        # Of two independent histories the expected squared difference is twice the variance.
        unrelated = sum(2 * float(looks.var(axis=0).sum()) for looks in self.looks[1:])
        return 1 - (jumps / unrelated) ** 0.5


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
