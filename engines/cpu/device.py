"""The CPU as a device: a stream is a worker thread with a queue, memory is numpy's.

Failures travel as they would on a GPU, late: an operation that fails fails the event recorded after it, and
with it what `needs` that event. Streams live on: what does not need the failed operation is not touched.
"""

from __future__ import annotations

import os
import platform
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter

import numpy as np

from ...errors import OutOfMemory
from ..contract import DType
from ..device import Buffer, Event, Update

Failure = BaseException | None
Task = Callable[[Failure], Failure]  # is told what has failed since the last event, and tells it on


class CPUDevice:
    """The host's own processor and memory."""

    def __init__(self) -> None:
        self.opened_s = perf_counter()
        self.streams: weakref.WeakSet[CPUStream] = weakref.WeakSet()

    @property
    def description(self) -> str:
        return platform.processor() or platform.machine()

    def activate(self) -> None:
        pass

    def stream(self, name: str) -> CPUStream:
        stream = CPUStream(name, self.opened_s)
        self.streams.add(stream)
        return stream

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        try:
            array = np.empty(shape, np.dtype(dtype))
        except MemoryError as error:
            raise OutOfMemory(
                f"no room for {dtype} {shape}; use a smaller size, a smaller window or fewer frames"
            ) from error
        return Buffer(dtype, shape, array.ctypes.data, array=array)

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        buffer = self.buffer(dtype, shape)
        buffer.of_host = True
        return buffer

    def release(self, buffer: Buffer) -> None:
        """Memory is numpy's, and goes with its last user."""

    def free_bytes(self) -> int:
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()  # counts caches that give way
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        except (OSError, StopIteration):
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        for stream in list(self.streams):
            stream.close()


class CPUEvent:
    """Set by the stream's worker when it gets there."""

    __slots__ = ("done", "failure", "lock", "stream", "time_s")

    def __init__(self, stream: CPUStream) -> None:
        self.stream = stream
        self.done = False
        self.failure: Failure = None
        self.time_s = 0.0
        self.lock = Lock()
        self.lock.acquire()

    def settle(self, failure: Failure) -> Failure:
        self.failure = failure
        self.pass_by(None)
        return None

    def pass_by(self, failure: Failure) -> Failure:
        self.time_s = perf_counter() - self.stream.opened_s
        self.done = True
        self.lock.release()
        return failure

    def wait(self) -> None:
        if not self.done:
            with self.lock:
                pass

    def synchronize(self) -> None:
        self.wait()
        if self.failure is not None:
            raise self.failure


class CPUStream:
    """A worker thread. It ends when its stream is closed or nobody holds it any more."""

    def __init__(self, name: str, opened_s: float) -> None:
        self.name = name
        self.opened_s = opened_s
        self.queue: SimpleQueue[Task | None] = SimpleQueue()
        self.thread = Thread(target=work, args=(self.queue,), name=f"animate-rt {name}", daemon=True)
        self.thread.start()
        self.end = weakref.finalize(self, self.queue.put, None)

    def call(self, function: Callable[[], object]) -> None:
        """Put any work of the host's on the stream."""

        def task(failure: Failure) -> Failure:
            if failure is None:
                try:
                    function()
                except BaseException as error:  # it belongs to whoever waits for the next event
                    return error
            return failure

        self.queue.put(task)

    def copy(self, *pairs: tuple[Buffer, Buffer]) -> None:
        for target, source in pairs:
            assert target.shape == source.shape, f"{target.shape} != {source.shape}"
            assert target.dtype == source.dtype, f"{target.dtype} != {source.dtype}"
        arrays = [(target.array, source.array) for target, source in pairs]

        def run() -> None:
            for target, source in arrays:
                target[...] = source  # type: ignore[index]

        self.call(run)

    def update(self, updates: Sequence[Update]) -> None:
        def run() -> None:
            for update in updates:
                apply(update)

        self.call(run)

    def record(self) -> CPUEvent:
        event = CPUEvent(self)
        self.queue.put(event.settle)
        return event

    def mark(self) -> CPUEvent:
        event = CPUEvent(self)
        self.queue.put(event.pass_by)
        return event

    def wait(self, event: Event, *, needs: bool) -> None:
        assert isinstance(event, CPUEvent)
        if event.done and not (needs and event.failure):
            return
        if event.stream is self and not needs:
            return  # in order anyway

        def task(failure: Failure) -> Failure:
            event.wait()
            return failure or (event.failure if needs else None)

        self.queue.put(task)

    def close(self) -> None:
        self.end()
        self.thread.join()


def work(queue: SimpleQueue[Task | None]) -> None:
    failure: Failure = None
    while (task := queue.get()) is not None:
        failure = task(failure)
        del task  # or buffers in its closure would live until the next one comes


def apply(update: Update) -> None:
    """One sampler update, in numpy."""
    latents, prediction = update.latents.array, update.prediction.array
    total = None if update.total is None else update.total.array
    assert latents is not None
    assert prediction is not None
    assert total is not None or (update.first and update.last)
    if total is not None and not update.first:
        prediction = np.add(total, prediction, out=total)
    if update.last:
        latents *= np.float32(update.a)
        latents += np.float32(update.b) * prediction
    elif update.first and total is not None:
        total[...] = prediction
