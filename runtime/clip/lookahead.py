"""Pose frames ahead of their use: read as far as the windows need to know a clip's length, no further."""

from __future__ import annotations

from collections.abc import Callable

from ...engines.device import Array
from ..media.picture import fit
from ..media.pose_sequence import PoseSequence


class Lookahead:
    """The pictures of a pose sequence, uint8 (1, height, width, 3), each kept from reading until taken."""

    def __init__(
        self,
        pose: PoseSequence,
        width: int,
        height: int,
        progress: Callable[[], None],
        first_frame: int = 0,
    ):
        self.pictures = iter(pose)
        self.estimated_length = pose.num_frames
        self.width, self.height = width, height
        self.progress = progress  # called after each picture
        self.first_frame = first_frame  # those before it are read, as others follow them, and not kept
        self.waiting: dict[int, Array] = {}
        self.num_read = 0
        self.ended = False

    def at_least(self, num_frames: int) -> bool:
        while self.num_read < num_frames and not self.ended:
            picture = next(self.pictures, None)
            if picture is None:
                self.ended = True
            else:
                if self.num_read >= self.first_frame:
                    self.waiting[self.num_read] = fit(picture, self.width, self.height)[None]
                self.num_read += 1
                self.progress()
        return self.num_read >= num_frames

    def total(self) -> int:
        while not self.ended:
            self.at_least(self.num_read + 1)
        return self.num_read

    @property
    def length(self) -> int | None:
        """How many there are, once all are read; before that what the sequence said, unless it was wrong."""
        if self.ended:
            return self.num_read
        estimated_length = self.estimated_length
        return None if estimated_length is None or estimated_length < self.num_read else estimated_length

    def take(self, frame: int) -> Array:
        return self.waiting.pop(frame)
