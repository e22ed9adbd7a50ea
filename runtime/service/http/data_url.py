"""Files inside texts: data URLs, for clients that cannot add files to a form. No other URL is ever read."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from ....text import quoted
from .failures import Refused

BEGIN = re.compile(rb"data:[A-Za-z0-9/+.;=_-]{0,200};base64,")
HEAD, CHUNK = 256, 4 << 16  # bytes; a chunk is a multiple of four characters


def encoded_size(num_bytes: int) -> int:
    """The most characters of a data URL with so many bytes."""
    return -(-num_bytes // 3) * 4 + HEAD


def decode(source: Path, target: Path, field: str) -> None:
    """Write the content of a data URL to another file. Raises Refused if it is none, or OSError."""
    with source.open("rb") as text, target.open("wb") as content:
        begin = BEGIN.match(text.read(HEAD))
        if begin is None:
            text.seek(0)
            raise Refused(
                400,
                f"{field}: expected an uploaded file or a data URL with base64, found "
                f"{quoted(text.read(60).decode('latin-1'))}; other URLs are not read",
                param=field,
            )
        text.seek(begin.end())
        while chunk := text.read(CHUNK):
            try:
                content.write(base64.b64decode(chunk, validate=True))
            except binascii.Error as error:
                raise Refused(
                    400, f"{field}: expected base64 in the data URL, found other characters", param=field
                ) from error
