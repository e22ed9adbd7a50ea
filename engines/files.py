"""Files as a manifest lists them: size and SHA-256, and JSON with exactly one spelling."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class File:
    sha256: str
    num_bytes: int


def describe(path: Path) -> File:
    """Hash a file."""
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def canonical(document: dict[str, Any]) -> bytes:
    """A JSON document in its only spelling, so that not even a change of white space goes unnoticed."""
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def digest_of(document: dict[str, Any]) -> str:
    """SHA-256 of the document's canonical spelling."""
    return hashlib.sha256(canonical(document)).hexdigest()
