"""Files as answers: parts of them (Range), and nothing if the client has them already (ETag)."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, Response

from .failures import Refused

RANGE = re.compile(r"bytes=(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))", re.ASCII)


def file_answer(
    request: Request, path: Path, media_type: str, etag: str, file_name: str, cache: str = "private, no-cache"
) -> Response:
    """A file, or the part that the request asks for. Raises Refused if there is no such part.

    `etag` is without quotation marks. A range that is no single range of bytes is ignored.
    """
    headers = {"etag": f'"{etag}"', "cache-control": cache}
    known = request.headers.get("if-none-match", "")
    if known == "*" or f'"{etag}"' in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    status = path.stat()
    wanted = request.headers.get("range")
    other = request.headers.get("if-range") not in (None, f'"{etag}"')  # a part of another file was asked for
    if wanted is not None:
        parts = RANGE.fullmatch(wanted)
        if parts is None or other or (parts[2] and int(parts[2]) < int(parts[1])):
            del MutableHeaders(scope=request.scope)["range"]
        elif int(parts[1] or 0) >= status.st_size or int(parts[3] or 1) == 0:
            raise Refused(
                416,
                f"range: expected a part of {status.st_size} bytes, found {wanted}",
                code="range",
                headers={"content-range": f"bytes */{status.st_size}"},
            )
    return FileResponse(
        path,
        headers=headers,
        media_type=media_type,
        stat_result=status,
        filename=file_name,
        content_disposition_type="inline",
    )
