"""The page at `/`: its files, and the example inputs that it offers."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from fastapi import FastAPI, Request, Response

from ...media.folder import listed
from ...media.picture import read_picture

PAGE = Path(__file__).with_name("page")
EXAMPLES = Path(__file__).parents[3] / "weights" / "demo"
FRAME_MS = 80  # of the example motion
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
}
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add_page(app: FastAPI) -> frozenset[str]:
    """Add the page's routes. Returns their paths, which need no token."""
    files = {f"/page/{path.name}": path for path in PAGE.iterdir() if path.suffix in TYPES}
    files |= {"/": PAGE / "index.html", "/demo/reference.png": EXAMPLES / "reference.png"}
    for address, path in files.items():
        add_file(app, address, path)
    add_file(app, "/demo/pose.webp", EXAMPLES / "pose")
    return frozenset({*files, "/demo/pose.webp"})


def add_file(app: FastAPI, address: str, path: Path) -> None:
    def answer(request: Request) -> Response:
        body, etag = content(path)
        headers = HEADERS | {"etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=TYPES[Path(address).suffix or ".html"])

    app.add_api_route(address, answer, methods=["GET", "HEAD"], include_in_schema=False)


@cache
def content(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, or of a folder's pictures as a lossless animated WebP, and their ETag."""
    body = animated(path) if path.is_dir() else path.read_bytes()
    return body, f'"{sha256(body).hexdigest()[:32]}"'


def animated(folder: Path) -> bytes:
    first, *others = (read_picture(path) for path in listed(folder))
    file = BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, lossless=True)
    return file.getvalue()
