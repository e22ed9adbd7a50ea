"""Renders clips in a separate process, which shares neither threads nor memory with other peers and can be
killed when it takes too long."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple, Self

from ...engines.device import Array
from ..workload import Pictures, Workload
from . import host

# (clip number, pictures, steps) -> frames (F, H, W, 3) in 0 to 255, rounded or not.
Render = Callable[[int, Pictures, int], Array]
Make = Callable[[Workload], Render]

TICK_S = 0.2
GRACE_S = 5.0  # for a process to end before it is killed


class Failed(Exception):
    """The process raised an error, ended, or took too long."""


class Rendered(NamedTuple):
    frames: Array
    seconds: float
    peak_bytes: int | None


class Worker:
    """A process that calls `make` once, and renders clips with the function it returns. `tick` is called
    several times a second while waiting for the process; an exception from it ends the wait."""

    def __init__(self, make: Make, workload: Workload, tick: Callable[[], None]):
        self.tick = tick
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make, workload), daemon=True)
        self.process.start()
        theirs.close()

    def load(self, limit_s: float) -> float:
        """Wait until the process is ready; returns the seconds that `make` took."""
        return float(self._receive(limit_s))

    def render(self, clip: int, steps: int, limit_s: float) -> Rendered:
        self.connection.send((clip, steps))
        return Rendered(*self._receive(limit_s))

    def _receive(self, limit_s: float) -> Any:
        deadline = perf_counter() + limit_s
        while not self.connection.poll(TICK_S):
            self.tick()
            if perf_counter() > deadline:
                raise Failed(f"took more than {limit_s:g} s")
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise Failed(f"its process ended with status {self.process.exitcode}") from None
        if isinstance(answer, Failed):
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()  # which ends the process
        self.process.join(GRACE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def serve(connection: Connection, make: Make, workload: Workload) -> None:
    """The process's main function."""
    try:
        began = perf_counter()
        render = make(workload)
        connection.send(perf_counter() - began)
        while True:
            clip, steps = connection.recv()
            pictures = workload.pictures(clip)
            began = perf_counter()
            frames = render(clip, pictures, steps)
            connection.send((frames, perf_counter() - began, host.peak_bytes()))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # a peer that fails must not end the benchmark
        connection.send(Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
