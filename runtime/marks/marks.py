"""The marks of a file: a watermark and a label in its frames, metadata, and a signature.

with open_writer("out.mp4", 512, 768, 24, marks=Marks(Payload.of("job 17"))) as writer: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ...errors import ConfigError
from ..media.picture import Frame
from .credentials import Credentials, Origin
from .label import labeller
from .metadata import DETECTOR, add_packet, packet
from .pattern import Pattern
from .watermark import Payload, Watermark


@dataclass(frozen=True, slots=True)
class Marks:
    """What `open_writer` adds to a file.

    watermark: None for none. metadata: the unsigned XMP packet. label: the visible "AI". credentials: sign
    with C2PA. detector: where people find a detector, for the metadata. origin: what is signed besides.
    """

    payload: Payload
    watermark: Watermark | None = field(default_factory=Pattern)
    metadata: bool = True
    label: bool = False
    credentials: Credentials | None = None
    detector: str = DETECTOR
    origin: Origin = field(default_factory=Origin)
    frames: bool = True  # False: the frames are marked already

    def of_marked_frames(self) -> Self:
        """These marks for frames that have been marked already: only the file is."""
        return replace(self, frames=False)

    def marker(self, width: int, height: int) -> Callable[[Frame], Frame]:
        """A function that returns marked copies of frames, uint8 (height, width, 3)."""
        steps: list[Callable[[Frame], Frame]] = []
        if self.frames and self.label:
            steps.append(labeller(width, height))
        if self.frames and self.watermark:  # last, so that it is in the label too
            steps.append(self.watermark.marker(width, height, self.payload))

        def mark(frame: Frame) -> Frame:
            for step in steps:
                frame = step(frame)
            return frame

        return mark

    def finish(self, path: Path) -> None:
        """Mark a complete PNG or mp4 in place, before it gets its final name.

        Raises OSError, ConfigError or OutputError.
        """
        name = self.watermark.name if self.watermark else ""
        if self.metadata:
            add_packet(path, packet(name, self.detector))
        if self.credentials:
            self.credentials.apply(path, self.origin, name, self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkOptions:
    """What the commands that make files leave out or add."""

    watermark: bool = True
    metadata: bool = True
    label: bool = False
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--c2pa-cert, --c2pa-key: expected both or none, found one; give both")

    def credentials(self) -> Credentials | None:
        """What signs, if there is a certificate. Raises ConfigError for one that cannot sign."""
        return Credentials.read(self.certificate, self.key) if self.certificate and self.key else None

    def request(self) -> dict[str, Any]:
        """What of it decides the bytes of a result. No two signatures are equal, so they do not count."""
        return {
            "watermark": Pattern.name if self.watermark else None,
            "metadata": self.metadata,
            "label": self.label,
        }

    def record(self) -> dict[str, Any]:
        """For sidecars and reports."""
        return self.request() | {"c2pa": self.certificate is not None}

    def marks(self, digest: str, origin: Origin) -> Marks:
        """The marks of the job whose request has this digest. Raises ConfigError."""
        return Marks(
            Payload.of(digest),
            watermark=Pattern() if self.watermark else None,
            metadata=self.metadata,
            label=self.label,
            credentials=self.credentials(),
            origin=origin,
        )
