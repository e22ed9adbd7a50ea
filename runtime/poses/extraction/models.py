"""Models: networks that find people in pictures, and what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..keypoints import Pose

if TYPE_CHECKING:
    from PIL.Image import Image


class Candidate(NamedTuple):
    """Someone whom a detector has found. `region` is where the models look for the person, in their own form.

    The pose may be of the body alone.
    """

    pose: Pose
    score: float
    region: Any


class Estimate(NamedTuple):
    """A whole pose. `region` is where the models look for the person in the next picture."""

    pose: Pose
    region: Any


class Models(Protocol):
    """Networks that find people. Called from one thread at a time."""

    def detect(self, picture: Image) -> list[Candidate]:
        """Find everyone in an RGB picture. Raises DeviceError."""

    def estimate(self, picture: Image, region: Any) -> Estimate | None:
        """The pose of the person in a region, or None if there is nobody. Raises DeviceError."""

    def close(self) -> None:
        """Free the models' memory."""
