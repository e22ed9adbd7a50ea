"""The layout of a clip: its windows, and the segments of frames between their edges.

All frames of a segment are covered by the same windows, so they are denoised, averaged and finished together.
A segment is the unit that has its own latents and pose features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .windows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Consecutive frames covered by the same windows."""

    frames: range
    windows: tuple[int, ...]  # indices, ascending


class Place(NamedTuple):
    """Where a segment lies in a window."""

    segment: Segment
    rows: range  # within the window


class Layout:
    """The windows that a policy yields, read ahead no further than needed."""

    def __init__(self, windows: Iterable[Window]):
        self.windows = windows if isinstance(windows, list) else []
        self.unread: Iterator[Window] = iter(() if isinstance(windows, list) else windows)
        self.covering: defaultdict[int, list[int]] = defaultdict(list)  # windows, by frame
        for index, window in enumerate(self.windows):
            self._add(index, window)
        self.segments: dict[int, Segment] = {}  # by first frame

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of all windows."""
        index = 0
        while index < len(self.windows) or self._read_window():
            yield index
            index += 1

    def neighbours(self, index: int) -> list[int]:
        """Return the windows that share frames with this one, itself included, ascending."""
        window = self.windows[index]
        while self.windows[-1][0] <= window[-1] and self._read_window():
            pass
        return sorted({neighbour for frame in window for neighbour in self.covering[frame]})

    def places(self, index: int) -> list[Place]:
        """Return the segments of a window, from its first row to its last."""
        self.neighbours(index)  # reads all windows that cover its frames
        window = self.windows[index]
        places = []
        start = 0
        for row in range(1, len(window) + 1):
            if row == len(window) or not self._same_segment(window[row - 1], window[row]):
                places.append(Place(self._segment(window[start], row - start), range(start, row)))
                start = row
        return places

    def forget(self, index: int) -> None:
        """Remove a finished window, and the frames that no later window covers."""
        for frame in self.windows[index]:
            if self.covering[frame][-1] == index:
                del self.covering[frame]
                self.segments.pop(frame, None)
        self.windows[index] = []

    def _same_segment(self, frame: int, following: int) -> bool:
        return following == frame + 1 and self.covering[following] == self.covering[frame]

    def _segment(self, first: int, num_frames: int) -> Segment:
        if first not in self.segments:
            windows = tuple(self.covering[first])
            self.segments[first] = Segment(range(first, first + num_frames), windows)
        return self.segments[first]

    def _read_window(self) -> bool:
        window = next(self.unread, None)
        if window is not None:
            self._add(len(self.windows), window)
            self.windows.append(window)
        return window is not None

    def _add(self, index: int, window: Window) -> None:
        for frame in window:
            self.covering[frame].append(index)
