"""Whether a file says that it was generated: its signature, its watermark and its metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, InputMissing
from ...text import escaped, quoted
from ..media.picture import Frame, read_picture
from ..media.picture_file import FORMATS, looks_like
from ..media.video import open_video
from .metadata import GENERATED, Metadata, read_metadata
from .pattern import Pattern
from .signature import Signature, read_signature
from .watermark import Reading, Watermark

FRAMES = 24  # of a video that are read
MAX_STRIDE = 20  # frames from one that is read to the next
MAX_PIXELS = 1_500_000  # of a frame that is looked into; larger ones are made smaller
STILLS = tuple(name for name in FORMATS if name != "GIF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What was found in one file."""

    file: str
    reading: Reading  # of the watermark that was found, or else of the one that comes nearest
    signature: Signature
    metadata: Metadata
    num_frames: int  # that were looked into

    @property
    def marked(self) -> bool:
        """Whether any mark says that the file was generated.

        A watermark or a valid signature is evidence; metadata alone is only what the file says of itself.
        """
        signed = self.signature.state == "valid" and self.signature.source_type == GENERATED
        return self.reading.found or signed or self.metadata.source_type == GENERATED

    def document(self) -> dict[str, Any]:
        """As JSON, for programs."""
        reading = self.reading
        return {
            "file": self.file,
            "marked": self.marked,
            "watermark": {
                "found": reading.found,
                "name": reading.watermark,
                "bits": str(reading.payload) if reading.certain else None,
                "product": f"{reading.payload.product:04x}" if reading.certain else None,
                "job": f"{reading.payload.job:04x}" if reading.certain else None,
                "bits_confidence": reading.bits_confidence if reading.found else None,
                "confidence": reading.confidence,
                "false_positive_rate": reading.false_positive_rate,
                "frames": self.num_frames,
            },
            "c2pa": asdict(self.signature),
            "metadata": asdict(self.metadata),
        }

    def line(self) -> str:
        """For people."""
        reading, signature = self.reading, self.signature
        found = "no watermark"
        if reading.found:
            bits = str(reading.payload) if reading.certain else "found, but its bits are not certain"
            found = f"watermark {bits} (seen by chance in {reading.false_positive_rate:.0e} of files)"
        c2pa = f"C2PA {signature.state}" if signature.state != "none" else "no C2PA"
        if detail := ", ".join(filter(None, (signature.signer, *signature.why))):
            c2pa += f" ({detail})"
        metadata = f"metadata: {self.metadata.source_type}" if self.metadata.source_type else "no metadata"
        return (
            f"{quoted(self.file)}: {'marked' if self.marked else 'not marked'}; {found}; {c2pa}; {metadata}"
        )


def detect(path: str | os.PathLike[str], watermarks: Sequence[Watermark] = (Pattern(),)) -> Detection:
    """Look for marks in a picture or a video. `watermarks` are those that are looked for, at least one.

    Raises InputMissing or InputError if the file cannot be read.
    """
    path = Path(path)
    shown = escaped(str(path))
    if not path.exists():
        raise InputMissing(f"{shown}: expected a picture or a video, found none; check the path")
    if path.is_dir():
        raise InputError(f"{shown}: expected a picture or a video, found a folder; give the files in it")
    frames = list(pictures(path))
    if not frames:
        raise InputError(f"{shown}: expected a picture or a video, found no frames")
    try:
        metadata = read_metadata(path)
        signature = read_signature(path, present=metadata.has_c2pa)
    except OSError as error:
        raise InputError(f"{shown}: cannot read it: {error.strerror}") from error
    readings = [watermark.read(frames) for watermark in watermarks]
    return Detection(
        file=str(path),
        reading=min(readings, key=lambda reading: reading.false_positive_rate),
        signature=signature,
        metadata=metadata,
        num_frames=len(frames),
    )


def is_still(path: Path) -> bool:
    return looks_like(str(path), STILLS)


def pictures(path: Path) -> Iterator[Frame]:
    """The picture, or frames of the video, all of one size. Raises InputError."""
    from PIL import Image

    if is_still(path):
        found, size = iter([read_picture(path)]), None
    else:
        video = open_video(str(path))
        stride = min(max(1, (video.num_frames or FRAMES) // FRAMES), MAX_STRIDE)
        found, size = islice(video.pictures(1), 0, stride * FRAMES, stride), None
    for picture in found:
        if size is None:
            scale = min(1.0, (MAX_PIXELS / (picture.width * picture.height)) ** 0.5)
            size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
        yield np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BOX))
