"""Uploads: multipart forms that are written to disk and counted while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO, Any

import anyio.to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ....atomic import unwritable
from ....text import quoted
from .data_url import decode, encoded_size
from .failures import Refused

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 << 10
FORM_BYTES = 4 << 20  # of everything but the files


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """Bounds of one upload.

    picture_bytes, video_bytes: of `input_reference` and `control_reference`. An upload ends when it is later
    than `patience_s` seconds, plus one for every `bytes_per_s` bytes that have arrived.
    """

    picture_bytes: int = 64 << 20
    video_bytes: int = 512 << 20
    patience_s: float = 30.0
    bytes_per_s: int = 64 << 10

    @property
    def files(self) -> dict[str, int]:
        """The file fields of a form, and how many bytes each may have."""
        return {"input_reference": self.picture_bytes, "control_reference": self.video_bytes}


@dataclass(slots=True)
class Upload:
    """A form: its texts, and the paths of its files. They are named after the fields."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


async def receive_form(
    request: Request, folder: Path, limits: UploadLimits, files: Mapping[str, int] | None = None
) -> Upload:
    """Receive a form and write its files into a folder. Raises Refused or OutputError.

    `files` are the names of file fields and how many bytes each may have; by default those for a video.
    """
    files = limits.files if files is None else files
    total = sum(map(encoded_size, files.values())) + FORM_BYTES
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(
            415, f"content-type: expected multipart/form-data with a boundary, found {quoted(text_of(kind))}"
        )
    if int(request.headers.get("content-length", 0)) > total:
        raise too_large("request", total)
    form = Form(folder, files)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        await feed(request, limits, total, parser.write)
    except FormParserError as error:
        raise Refused(400, "body: expected a multipart form, cannot read it") from error
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        form.close()
    if not form.ended:
        raise Refused(400, "body: expected a whole form, found only its beginning")
    return form.upload


async def feed(request: Request, limits: UploadLimits, total: int, write: Callable[[bytes], Any]) -> None:
    """Pass the body of a request on, as it arrives, up to `total` bytes."""
    began, received = monotonic(), 0
    while True:
        allowed = limits.patience_s + received / limits.bytes_per_s
        try:
            message = await asyncio.wait_for(request.receive(), began + allowed - monotonic())
        except TimeoutError as error:
            raise Refused(
                408,
                f"body: expected {limits.bytes_per_s >> 10} KiB per second, found {received} bytes in "
                f"{monotonic() - began:.0f} s",
                code="timeout",
                retryable=True,
            ) from error
        if message["type"] == "http.disconnect":
            raise Refused(400, "body: expected a whole request, found the connection closed")
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > total:
            raise too_large("request", total)
        if chunk:
            await anyio.to_thread.run_sync(write, chunk)  # writes to disk
        if not message.get("more_body", False):
            return


class Form:
    """Takes the parts of a form, one after another, from the parser's callbacks."""

    def __init__(self, folder: Path, file_limits: Mapping[str, int]):
        self.folder, self.file_limits = folder, file_limits
        self.upload, self.ended = Upload(), False
        self.header, self.value = bytearray(), bytearray()
        self.disposition = b""
        self.name, self.target, self.text, self.num_bytes = "", "", bytearray(), 0
        self.is_encoded = False
        self.file: IO[bytes] | None = None
        self.has_name = False
        self.num_parts = 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self.begin,
            "on_header_field": lambda data, start, end: self.header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self.value.extend(data[start:end]),
            "on_header_end": self.end_header,
            "on_headers_finished": self.begin_content,
            "on_part_data": self.add,
            "on_part_end": self.end,
            "on_end": self.end_form,
        }

    def begin(self) -> None:
        self.disposition = b""
        self.num_parts += 1
        if self.num_parts > MAX_FIELDS:
            raise Refused(400, f"body: expected at most {MAX_FIELDS} fields, found more")

    def end_header(self) -> None:
        if bytes(self.header).lower() == b"content-disposition":
            self.disposition = bytes(self.value)
        self.header.clear()
        self.value.clear()

    def begin_content(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.name = decoded("name", options.get(b"name", b""))
        self.text.clear()
        self.num_bytes = 0
        is_file = b"filename" in options
        self.has_name = bool(options.get(b"filename"))
        file = self.name.removesuffix("[image_url]")
        self.target = file if file in self.file_limits else self.name
        self.is_encoded = not is_file and self.target in self.file_limits
        texts, files = self.upload.texts, self.upload.files
        if not self.name:
            raise Refused(400, "body: expected a name for each field, found none")
        if self.target in texts or self.target in files:
            raise Refused(400, f"body: expected each field once, found {quoted(self.target)} again")
        if is_file and self.target not in self.file_limits:
            raise Refused(400, f"{quoted(self.name)}: expected a text, found a file", param=self.name)
        if self.target in self.file_limits:
            # The client's name of the file is not used. This one is from the list of fields.
            self.file = (self.folder / (f"{self.target}.url" if self.is_encoded else self.target)).open("wb")

    def add(self, data: bytes, start: int, end: int) -> None:
        self.num_bytes += end - start
        limit = self.file_limits[self.target] if self.file else MAX_FIELD_BYTES
        if self.num_bytes > (encoded_size(limit) if self.is_encoded else limit):
            raise too_large(self.target, limit)
        if self.file is None:
            self.text += data[start:end]
        else:
            self.file.write(data[start:end])

    def end(self) -> None:
        if self.file is None:
            self.upload.texts[self.target] = decoded(self.name, bytes(self.text))
            return
        self.close()
        path = self.folder / self.target
        if self.is_encoded:
            decode(self.folder / f"{self.target}.url", path, self.target)
            if path.stat().st_size > self.file_limits[self.target]:
                raise too_large(self.target, self.file_limits[self.target])
        # Browsers send an empty file without a name for an input in which none was chosen.
        if self.num_bytes or self.has_name:
            self.upload.files[self.target] = path

    def end_form(self) -> None:
        self.ended = True

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def decoded(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, f"{quoted(name)}: expected UTF-8, found other bytes", param=name) from error


def text_of(content: bytes) -> str:
    return content.decode("latin-1")


def too_large(name: str, limit: int) -> Refused:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return Refused(413, f"{quoted(name)}: expected at most {size}, found more", param=name)
