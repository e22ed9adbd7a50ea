"""The sidecar of a result: what it was made from, and the SHA-256 of its files. It lies beside the result."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ...atomic import atomic
from ...engines.files import canonical, digest_of, read_bytes

LIMIT = 16_000_000  # bytes, for more than 150,000 frames
SMALL = 1_000_000  # bytes of a file of somebody else that is looked into
OPENING = b'{\n "'  # of canonical JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    digest: str  # of the request; empty for a result that is to be made again
    files: dict[str, str]  # SHA-256 by file name
    frames: int  # their number
    shot: str  # name, for people
    contact_sheet: str | None = None  # SHA-256, if one was written
    overlay: str | None = None  # the same
    marks: dict[str, Any] | None = None  # that it has, and those that were switched off
    lossy: list[str] | None = None  # options that trade accuracy for speed

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a sidecar. None if there is none, or if it is damaged."""
        try:
            content = read_bytes(path, LIMIT)
            sidecar = cls.parse(json.loads(content)) if content.startswith(OPENING) else None
        except (OSError, ValueError, RecursionError):
            return None
        return sidecar if sidecar and sidecar.content() == content else None

    @classmethod
    def parse(cls, document: Any) -> Self | None:
        """The sidecar in a JSON document. None if a field is missing or of another type."""
        match document:
            case {"digest": str(digest), "files": dict(files), "frames": int(frames), "shot": str(shot)}:
                sheet, overlay = document.get("contact_sheet"), document.get("overlay")
                marks, lossy = document.get("marks"), document.get("lossy")
                valid = (
                    all(isinstance(value, str) and plain(name) for name, value in files.items())
                    and type(frames) is int
                    and frames >= 0
                    and all(value is None or isinstance(value, str) for value in (sheet, overlay))
                    and (marks is None or isinstance(marks, dict))
                    and (lossy is None or isinstance(lossy, list))
                )
                if valid:
                    return cls(
                        digest=digest,
                        files=files,
                        frames=frames,
                        shot=shot,
                        contact_sheet=sheet,
                        overlay=overlay,
                        marks=marks,
                        lossy=lossy,
                    )
        return None

    def content(self) -> bytes:
        """The bytes of the file. A checksum shows when they are damaged."""
        document = asdict(self)
        for name in ("overlay", "marks", "lossy"):
            if document[name] is None:
                del document[name]  # which older results do not have
        return canonical(document | {"checksum": digest_of(document)})

    def write(self, path: Path) -> None:
        """Write it atomically. Raises OSError or OutputError."""
        with atomic(path) as temporary:
            temporary.write_bytes(self.content())


def plain(name: str) -> bool:
    """Whether it is the name of a file in a folder, and no way out of it."""
    return name not in ("", ".", "..") and not {"/", "\0"} & set(name)


def is_foreign(path: Path, *, beside_a_result: bool) -> bool:
    """Whether something at a sidecar's path is no sidecar, not even a damaged one.

    JSON with content of another kind is somebody's. Anything else beside a result is a damaged sidecar.
    """
    if not os.path.lexists(path):
        return False
    if not path.is_file():
        return True
    try:
        content = read_bytes(path, LIMIT)
        if len(content) > SMALL and not content.startswith(OPENING):
            return True
        document = json.loads(content)
    except (ValueError, RecursionError):
        return not (beside_a_result or content.startswith(OPENING) or OPENING.startswith(content))
    except OSError:
        return not beside_a_result
    return bool(document) and not is_ours(document)


def is_ours(document: Any) -> bool:
    """Whether a JSON document has a key of a sidecar, or no content that anybody would miss."""
    if isinstance(document, dict):
        return not document.keys().isdisjoint(("digest", "files"))
    return not isinstance(document, list)
