"""A client of /v1/videos, made of the standard library: what it measures is not hidden by a package."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...text import quoted
from ..reporting.result import JSON

TIMEOUT_S = 600.0  # of one read
FRAGMENT = b"moof"  # the type of the box that begins a fragment of an mp4
CHUNK = 1 << 14


class Form(NamedTuple):
    """The form of a video: texts, and files by field."""

    texts: Mapping[str, str]
    files: Mapping[str, Path]

    def encode(self) -> tuple[bytes, str]:
        """The body and its content type."""
        boundary = secrets.token_hex(16)
        body = bytearray()

        def add(name: str, rest: str, content: bytes) -> None:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'
            body.extend(head.encode() + content + b"\r\n")

        for name, text in self.texts.items():
            add(name, "", text.encode())
        for name, path in self.files.items():
            add(name, f'; filename="{path.name}"', path.read_bytes())
        body.extend(f"--{boundary}--\r\n".encode())
        return bytes(body), f"multipart/form-data; boundary={boundary}"


class Seen(NamedTuple):
    """What a client saw of one video; seconds since it arrived, None for what did not happen."""

    state: str  # "completed", "failed", "cancelled", "refused", or "error" for another answer
    began_s: float | None = None  # the device took it
    first_fragment_s: float | None = None  # of the stream
    ended_s: float | None = None  # the result was downloaded
    video: JSON | None = None  # as it was at the end
    content: bytes = b""


class VideoClient:
    """Makes one request on each connection. Methods may be called from several threads."""

    def __init__(self, url: str, token: str = ""):
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"url: expected one like http://127.0.0.1:8000, found {quoted(url)}")
        self.host, self.port = parts.hostname, parts.port or 80
        self.headers = {"authorization": f"Bearer {token}"} if token else {}

    @contextmanager
    def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = ""
    ) -> Iterator[HTTPResponse]:
        """Send a request, and yield the answer, whose body is not read yet."""
        connection = HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            kind = {"content-type": content_type} if content_type else {}
            connection.request(method, path, body, self.headers | kind)
            yield connection.getresponse()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            with self.request("GET", "/readyz") as answer:
                return answer.status == 200
        except OSError:
            return False

    def watch(self, form: Form, arrived: float, *, stream: bool) -> Seen:
        """Ask for a video, watch it until it has ended, and download it.

        `arrived` is the moment, on the host's clock, from which on its user waits. If `stream`, the live
        video is received too, as by a player. A connection that fails makes it an "error".
        """
        try:
            return self._watch(form, arrived, stream)
        except (OSError, HTTPException):
            return Seen("error")

    def _watch(self, form: Form, arrived: float, stream: bool) -> Seen:
        def waited() -> float:
            return perf_counter() - arrived

        body, kind = form.encode()
        with self.request("POST", "/v1/videos", body, kind) as answer:
            document = answer.read()
            if answer.status != 200:
                return Seen("refused" if answer.status == 429 else "error")
        video = json.loads(document)
        place = f"/v1/videos/{video['id']}"
        fragments: list[float] = []
        player = Thread(target=self.play, args=(place, arrived, fragments), daemon=True)
        if stream:
            player.start()
        began = None
        for video in self.events(place):
            if began is None and video["status"] != "queued":
                began = waited()
        content = b""
        if video["status"] == "completed":
            with self.request("GET", f"{place}/content") as answer:
                content = answer.read()
        ended = waited()
        if stream:
            player.join()
        return Seen(video["status"], began, next(iter(fragments), None), ended, video, content)

    def events(self, place: str) -> Iterator[JSON]:
        """The Video object now and after every change."""
        with self.request("GET", f"{place}/events") as answer:
            while line := answer.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def play(self, place: str, arrived: float, fragments: list[float]) -> None:
        """Receive the live video, and note when its first fragment came."""
        end = b""
        with suppress(OSError, HTTPException), self.request("GET", f"{place}/stream") as answer:
            while chunk := answer.read1(CHUNK):
                if not fragments and FRAGMENT in end + chunk:
                    fragments.append(perf_counter() - arrived)
                end = chunk[-len(FRAGMENT) :]

    def get(self, path: str) -> Any:
        with self.request("GET", path) as answer:
            return json.loads(answer.read())
