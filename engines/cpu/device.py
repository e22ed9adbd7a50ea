"""The CPU as a device: a stream is a worker thread with a queue, memory is numpy's.

Errors are reported late, as on a GPU: an operation that fails also fails the operations after it up to the
next recorded event, that event, and the work that `needs` that event. The stream itself keeps working: other
operations are not affected.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from traceback import clear_frames

import numpy as np

from ...errors import OutOfMemory
from ..contract import ITEM_BYTES, DType
from ..device import Buffer, Event, Update
from ..library_calls import ENDING, library_lock
from .free_memory import free_bytes

Failure = BaseException | None
Task = Callable[[Failure], Failure]  # receives the pending failure and returns the new one

LARGE = 1 << 24  # bytes; smaller buffers are allocated without a look at the free memory
# glibc keeps freed memory between allocations that are still in use, until it is told not to.
MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
SMALLER = "use a smaller size, a smaller window or fewer frames"


class CPUDevice:
    """The processor and memory of the host."""

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
        num_bytes = prod(shape) * ITEM_BYTES[dtype]
        # Linux grants any allocation, and ends the process when it writes more than there is.
        if num_bytes >= LARGE and num_bytes > (free := self.free_bytes()):
            raise OutOfMemory(
                f"no room for {dtype} {shape}: expected {num_bytes / 1e6:.0f} MB, found {free / 1e6:.0f} MB "
                f"free; {SMALLER}"
            )
        try:
            array = np.empty(shape, np.dtype(dtype))
        except (MemoryError, ValueError) as error:  # ValueError: more than an address can count
            raise OutOfMemory(f"no room for {dtype} {shape}; {SMALLER}") from error
        return Buffer(dtype, shape, array.ctypes.data, array=array)

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        buffer = self.buffer(dtype, shape)
        buffer.of_host = True
        return buffer

    def release(self, *buffers: Buffer) -> None:
        """Does nothing: numpy frees an array with its last reference."""

    def trim(self) -> None:
        if MALLOC_TRIM is not None:
            MALLOC_TRIM(0)

    def free_bytes(self) -> int:
        return free_bytes()

    def close(self) -> None:
        for stream in list(self.streams):
            stream.close()


class CPUEvent:
    """Set by the worker thread of the stream when it reaches the event."""

    __slots__ = ("done", "failure", "lock", "stream", "time_s")

    def __init__(self, stream: CPUStream) -> None:
        self.stream = stream
        self.done = False
        self.failure: Failure = None
        self.time_s = 0.0
        self.lock = Lock()
        self.lock.acquire()

    def settle(self, failure: Failure) -> Failure:
        """Mark the event as reached. It takes over the pending failure."""
        self.failure = failure
        self.pass_by(None)
        return None

    def pass_by(self, failure: Failure) -> Failure:
        """Mark the event as reached. The failure stays pending."""
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
    """A worker thread, which ends when the stream is closed or garbage-collected."""

    def __init__(self, name: str, opened_s: float) -> None:
        self.name = name
        self.opened_s = opened_s
        self.queue: SimpleQueue[Task | None] = SimpleQueue()
        self.thread = Thread(target=work, args=(self.queue,), name=f"animate-rt {name}", daemon=True)
        self.thread.start()
        self.calling = library_lock()
        self.end = weakref.finalize(self, self.queue.put, None)

    def call(self, function: Callable[[], object]) -> None:
        """Enqueue a Python function."""
        # Not the stream itself: a task that held it would keep it from ending. And not a closure, which the
        # frames of a failure would keep.
        self.queue.put(partial(call, self.name, self.calling, function))

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
            return  # a stream's own operations are in order already

        def task(failure: Failure) -> Failure:
            event.wait()
            return failure or (event.failure if needs else None)

        self.queue.put(task)

    def check(self, check: Callable[[], None]) -> None:
        self.call(check)

    def close(self) -> None:
        self.end()
        if not ENDING.is_set():
            self.thread.join()


def work(queue: SimpleQueue[Task | None]) -> None:
    failure: Failure = None
    while (task := queue.get()) is not None:
        failure = task(failure)
        del task  # or buffers in its arguments would stay alive until the next task


def call(name: str, calling: Lock, function: Callable[[], object], failure: Failure) -> Failure:
    """Call a function unless something failed before. Returns the failure, for the host to raise."""
    if failure is None:
        failure = failure_of(calling, function)
        del function  # the frames of the failure lead to this one
        forget_frames(failure)
        if isinstance(failure, MemoryError):
            cause, failure = failure, OutOfMemory(f"{name}: no room in memory; {SMALLER}")
            failure.__cause__ = cause
    return failure


def failure_of(calling: Lock, function: Callable[[], object]) -> Failure:
    """What a function raises, or None."""
    try:
        with calling:
            function()
    except BaseException as error:
        return error
    return None


def forget_frames(failure: Failure) -> None:
    """Clear the local variables of the functions that an error went through, and those of its causes.

    They would keep engines that are unloaded. Only for an error that no other thread has seen yet.
    """
    while failure is not None:
        clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__


def apply(update: Update) -> None:
    """Compute one sampler update with numpy."""
    latents, prediction = update.latents.array, update.prediction.array
    total = None if update.total is None else update.total.array
    assert latents is not None
    assert prediction is not None
    assert total is not None or (update.first and update.last)
    if total is not None and not update.first:
        prediction = np.add(total, prediction, out=total)
    if update.last:
        estimate = update.estimate
        clean = estimate and np.float32(estimate.a) * latents + np.float32(estimate.b) * prediction
        latents *= np.float32(update.a)
        latents += np.float32(update.b) * prediction
        for term in update.earlier:
            assert term.buffer.array is not None
            latents += np.float32(term.factor) * term.buffer.array
        if estimate:
            assert estimate.buffer.array is not None
            estimate.buffer.array[...] = clean
    elif update.first and total is not None:
        total[...] = prediction
