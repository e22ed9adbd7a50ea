"""The lookahead: reads pose frames only as far as the windows need to know the clip's length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...engines.contract import POSE_GUIDER
from ...engines.device import Array
from ..media.picture import fit
from .clip import Clip
from .progress import counter

if TYPE_CHECKING:
    from PIL import Image


class Lookahead:
    """The pictures of a pose sequence, uint8 (1, height, width, 3). Each is kept until it is taken.

    Window policies use it as the clip's `Length`.
    """

    def __init__(self, clip: Clip):
        self.pictures = iter(clip.pose)
        self.estimated_length = clip.pose.num_frames
        _, self.height, self.width, _ = clip.manifest.graphs[POSE_GUIDER].inputs[0].shape
        self.resampling = clip.manifest.model.pose_resampling
        self.progress = counter(clip.progress, "pose", lambda: clip.pose.num_frames)
        self.first_frame = clip.snapshots.start.first_frame  # earlier frames are read but not kept
        self.waiting: dict[int, Array] = {}  # by frame; repeated frames share one array
        self.last: tuple[Image.Image, Array] | None = None  # the picture of the last frame, and its array
        self.num_read = 0
        self.ended = False

    def at_least(self, num_frames: int) -> bool:
        while self.num_read < num_frames and not self.ended:
            picture = next(self.pictures, None)
            if picture is None:
                self.ended = True
            else:
                if self.num_read >= self.first_frame:
                    if self.last is None or self.last[0] is not picture:
                        self.last = picture, self._fitted(picture)
                    self.waiting[self.num_read] = self.last[1]
                self.num_read += 1
                self.progress()
        return self.num_read >= num_frames

    def _fitted(self, picture: Image.Image) -> Array:
        return fit(picture, self.width, self.height, self.resampling)[None]

    def total(self) -> int:
        while not self.ended:
            self.at_least(self.num_read + 1)
        return self.num_read

    @property
    def length(self) -> int | None:
        """The exact length once all frames are read, and until then the estimate.

        None without an estimate, or if more frames have been read than estimated.
        """
        if self.ended:
            return self.num_read
        estimated_length = self.estimated_length
        return None if estimated_length is None or estimated_length < self.num_read else estimated_length

    def take(self, frame: int) -> Array:
        return self.waiting.pop(frame)
