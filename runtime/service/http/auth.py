"""Who may use the server: those who know a token, or, without tokens, programs and pages of this machine."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Container, Sequence
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ....engines.files import read_bytes
from ....errors import ConfigError, InputMissing
from ....text import quoted
from .failures import Refused

MIN_TOKEN, MAX_FILE = 16, 1 << 16
HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


class Guard:
    """Refuses requests without a token, except for the open paths.

    Without tokens, the server is bound to a loopback address, which any page in a browser on this machine can
    reach. So the request must be for a loopback name and, if it comes from a page, from a page of the server.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], open_paths: Container[str]):
        self.app, self.open_paths = app, open_paths
        self.digests = [sha256(token.encode()).digest() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := self.check(scope)):
            await refused.answer()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def check(self, scope: Scope) -> Refused | None:
        headers = Headers(scope=scope)
        if not self.digests:
            return check_local(headers)
        if scope["path"] in self.open_paths or self.knows(headers.get("authorization", "")):
            return None
        return Refused(
            401,
            "authorization: expected a bearer token that this server knows, found none; "
            "send the header Authorization: Bearer TOKEN",
            headers={"www-authenticate": "Bearer"},
        )

    def knows(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        digest = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        # All of them, so that the time tells nothing of which one was nearly right.
        found = [hmac.compare_digest(digest, known) for known in self.digests]
        return any(found) and scheme.lower() == "bearer"


def check_local(headers: Headers) -> Refused | None:
    host, origin = headers.get("host", ""), headers.get("origin")
    name = HOST.fullmatch(host)
    if name is None or not is_loopback(name[1].strip("[]")):
        return Refused(
            403,
            f"host: expected localhost or a loopback address, found {quoted(host)}; "
            "start the server with a token to use it under other names",
            code="forbidden",
        )
    if origin not in (None, f"http://{host}", f"https://{host}"):
        return Refused(
            403,
            f"origin: expected a page of this server, found {quoted(origin)}; "
            "start the server with a token to use it from other pages",
            code="forbidden",
        )
    return None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_tokens(path: Path) -> list[str]:
    """The tokens in a file, one a line. Raises ConfigError or InputMissing."""
    try:
        content = read_bytes(path, MAX_FILE)
    except FileNotFoundError as error:
        raise InputMissing(
            f"--token-file: expected a file with a token, found no {quoted(str(path))}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"--token-file: cannot read {quoted(str(path))}: {error.strerror or 'too large'}"
        ) from error
    tokens = [line.strip() for line in content.decode("ascii", "replace").splitlines() if line.strip()]
    for token in tokens:
        if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"--token-file: expected tokens of at least {MIN_TOKEN} ASCII characters without spaces, "
                f"one a line, found one of {len(token)} characters; `openssl rand -hex 24` makes one"
            )
    if not tokens:
        raise ConfigError(f"--token-file: expected a token, found none in {quoted(str(path))}")
    return tokens
