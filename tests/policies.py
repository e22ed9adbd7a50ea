"""Policies for tests. `animate-rt serve --policy animate_rt.tests.policies:NONE` can use them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from animate_rt import Refused
from animate_rt.runtime.media.picture import Frame

WHY = "expected another person"


class Recording:
    """Keeps what it is asked, and refuses what it is told to refuse."""

    def __init__(
        self,
        references: Callable[[Frame], bool] = lambda _picture: True,
        frames: Callable[[Frame], bool] = lambda _frame: True,
    ):
        self.allows_reference, self.allows_frame = references, frames
        self.pictures: list[Frame] = []
        self.requests: list[Mapping[str, Any]] = []
        self.frames: list[Frame] = []

    def check_reference(self, picture: Frame, request: Mapping[str, Any]) -> None:
        self.pictures.append(picture)
        self.requests.append(request)
        if not self.allows_reference(picture):
            raise Refused(WHY)

    def check_frames(self, frames: Sequence[Frame]) -> None:
        self.frames += frames
        if not all(map(self.allows_frame, frames)):
            raise Refused(WHY)


NONE = Recording(references=lambda _picture: False)
