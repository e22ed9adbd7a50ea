"""The server: uvicorn, with a limit for slow headers, and with draining before it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from threading import Event, Thread
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..service import Service

LOG = logging.getLogger("animate_rt")
HEADER_S = 15.0  # in which the headers of a request must arrive, or what is left of a refused body
MAX_CONNECTIONS = 512
CLOSING_S = 3  # for answers that are being sent when the server stops


class Connection(H11Protocol):
    """A connection that is closed when the headers of a request take too long.

    The body of a request that was refused is discarded for as long, so that clients that send all of it first
    get the answer.
    """

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_watching()
        super().connection_lost(exc)

    def watch(self) -> None:
        """Measure from the first byte after an answer until the next request has its headers."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.stop_watching()
        elif self.late is None:
            self.late = self.loop.call_later(HEADER_S, self.transport.abort)

    def stop_watching(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT. Then jobs have `drain_s` seconds to end; a second signal stops at once.

    `closing` is set when streams should end.
    """

    def __init__(self, app: ASGIApp, service: Service, closing: Event, drain_s: float):
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                server_header=False,
                headers=[("x-content-type-options", "nosniff")],
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=CLOSING_S,
            )
        )
        self.service, self.closing, self.drain_s = service, closing, drain_s
        self.draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.draining:
            self.stop()
        else:
            self.draining = True
            # In a thread, because the signal may have come while this one holds a lock that draining needs.
            Thread(target=self.drain, name="animate-rt drain", daemon=True).start()

    def drain(self) -> None:
        LOG.info("stopping: no new jobs; accepted ones have %g s to end", self.drain_s)
        if not self.service.drain(self.drain_s):
            LOG.info("stopping: jobs that have not ended are left for the next start on the same spool")
        self.stop()

    def stop(self) -> None:
        self.closing.set()
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self.service.ready.is_set() and self.service.failure:
            self.stop()
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address[:2], family=family, backlog=MAX_CONNECTIONS)
    listener.set_inheritable(False)
    return listener


def url_of(listener: socket.socket) -> str:
    address: Any = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
