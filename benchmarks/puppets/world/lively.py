"""What lives by itself: blinking, a pattern that slides on the clothes, and a shadow that follows.

Pattern and shadow depend on the motion of the last frames, and blinking on a random stream. A pose shows none
of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .drawing import Array
from .motion import Body
from .soft import WARM_UP

LIDS = (0.5, 1.0, 1.0, 0.5)  # how far the eyes are closed in the frames of a blink
PAUSE = (8, 30)  # frames from one blink to the next
KEPT = 0.86  # per frame: what the pattern keeps of its displacement
SLIDE = 0.7  # displacement of the pattern per movement of the neck
TWIST = 0.05  # per radian of the body's turn, frame units
FOLLOWED = 0.16  # per frame: the fraction of its distance to the feet that the shadow goes


class Life(NamedTuple):
    """The state in one frame."""

    lids: float  # how far the eyes are closed, 0 to 1
    slide: Array  # (2,): displacement of the top's pattern across and down, frame units
    shadow: Array  # (2,): displacement of the shadow's centre from the feet, and of the distance of the feet


STILL = Life(0.0, np.zeros(2), np.zeros(2))


class Lively:
    """Blinking, pattern and shadow, frame by frame."""

    def __init__(self, body_at: Callable[[float], Body], rng: np.random.Generator):
        """`body_at` gives the body at a time in frames, of any sign."""
        self.body_at, self.rng = body_at, rng
        self.lives = [STILL]
        self.body = body_at(-WARM_UP)
        self.place = feet(self.body)
        self.blink = self.pause()

    def at(self, frame: int) -> Life:
        """The state at a frame, which may be negative, down to -WARM_UP."""
        while len(self.lives) <= frame + WARM_UP:
            self.step()
        return self.lives[frame + WARM_UP]

    def step(self) -> None:
        """Live from the last frame to the next."""
        before, self.body = self.body, self.body_at(len(self.lives) - WARM_UP)
        moved = SLIDE * (self.body.joints["neck"] - before.joints["neck"])[:2]
        moved[0] += TWIST * (self.body.turn - before.turn)
        goal = feet(self.body)
        self.place = self.place + FOLLOWED * (goal - self.place)
        self.blink = self.blink - 1 if self.blink > 1 - len(LIDS) else self.pause()
        lids = LIDS[-self.blink] if self.blink <= 0 else 0.0
        # What slides stays behind the cloth that carries it.
        self.lives.append(Life(lids, KEPT * self.lives[-1].slide - moved, self.place - goal))

    def pause(self) -> int:
        return int(self.rng.integers(*PAUSE))


def feet(body: Body) -> Array:
    """(2,): x between the ankles, and their distance in x."""
    right, left = (float(body.joints[f"{name}_ankle"][0]) for name in ("right", "left"))
    return np.array([(right + left) / 2, abs(right - left)])
