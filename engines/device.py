"""The interface of devices: streams, events and buffers. The runtime uses devices only through it.

A stream runs operations in order; events order the operations of different streams. On the CPU a stream is a
worker thread and memory is numpy's (cpu/device.py); on an NVIDIA GPU both are CUDA's (cuda/device.py). Calls
on a stream return at once. An error that occurs later is raised when the host waits for an event after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from .contract import ITEM_BYTES, DType

Array = NDArray[Any]


class Buffer:
    """Contiguous memory of one tensor. `rows` gives buffers in the same memory.

    `array` is a numpy view of the memory, or None if the host cannot access it. It exists on the CPU and for
    page-locked memory. `owner` is the buffer that the memory was allocated for: this one, or the one it is
    rows of. The owner records who still uses the memory: `writer` is the event of the last operation that
    wrote it, `readers` holds, by stream, the event of the last operation that has read it since
    (runtime/streams/operations.py).
    """

    __slots__ = (
        "address",
        "array",
        "dtype",
        "memory",
        "num_bytes",
        "of_host",
        "parent",
        "readers",
        "shape",
        "writer",
    )

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        address: int,
        *,
        array: Array | None = None,
        memory: Any = None,
        of_host: bool = False,
        owner: Buffer | None = None,
    ):
        self.dtype = dtype
        self.shape = shape
        self.num_bytes = prod(shape) * ITEM_BYTES[dtype]
        self.address = address
        self.array = array
        self.memory = memory  # keeps the allocation alive
        self.of_host = of_host  # made by `host_buffer`
        self.parent = owner  # None: itself
        self.writer: Any = None
        self.readers: dict[Stream, Any] = {}

    @property
    def owner(self) -> Buffer:
        # A buffer that held itself would keep its memory until the next garbage collection.
        return self if self.parent is None else self.parent

    def rows(self, start: int, stop: int) -> Buffer:
        """Rows from `start` to before `stop` along the first axis. Raises IndexError."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"expected rows within 0 to {self.shape[0]}, found {start} to {stop}")
        row_bytes = self.num_bytes // self.shape[0]
        return Buffer(
            self.dtype,
            (stop - start, *self.shape[1:]),
            self.address + start * row_bytes,
            array=None if self.array is None else self.array[start:stop],
            memory=self.memory,
            of_host=self.of_host,
            owner=self.owner,
        )


class Term(NamedTuple):
    """A buffer of a sum, and its factor."""

    buffer: Buffer
    factor: float


class Estimate(NamedTuple):
    """Clean latents that an update estimates, for later ones."""

    buffer: Buffer
    a: float
    b: float


class Update(NamedTuple):
    """The sampler's update of some frames' latents after the prediction of a window, computed on the device.

        sum = prediction                   if `total` is None or `first`
        sum = total + prediction           otherwise
        latents = a * latents + b * sum + the terms of `earlier`, in their order    if `last`
        total = sum                        otherwise

    An `estimate` is `estimate.a * latents + estimate.b * sum`, of the latents before the update. It is only
    computed if `last`; its buffer may be one that `earlier` reads.

    All buffers are float32 and have one shape (frames, 4, h, w). Every device rounds products before adding.
    """

    latents: Buffer
    total: Buffer | None  # needed if several windows cover the frames
    prediction: Buffer
    first: bool  # of the windows that cover these frames
    last: bool
    a: float
    b: float
    earlier: tuple[Term, ...] = ()  # at most two estimates of earlier updates
    estimate: Estimate | None = None

    @property
    def reads(self) -> list[Buffer]:
        """The buffers whose content it uses."""
        total = [self.total] if self.total and not self.first else []
        last = [self.latents, *(term.buffer for term in self.earlier)] if self.last else []
        return [self.prediction, *total, *last]

    @property
    def writes(self) -> list[Buffer]:
        """The buffers that it changes. The total is undefined after the last window."""
        latents = [self.latents] if self.last else []
        total = [self.total] if self.total else []
        estimate = [self.estimate.buffer] if self.last and self.estimate else []
        return [*latents, *total, *estimate]


class Event(Protocol):
    """A point in the sequence of a stream's operations."""

    @property
    def stream(self) -> Stream:
        """The stream it was recorded on."""

    @property
    def done(self) -> bool:
        """Whether the stream has reached it."""

    @property
    def time_s(self) -> float:
        """When the stream reached it, in seconds since the device was opened.

        Valid once `done`, on a device that was opened with timing.
        """

    def synchronize(self) -> None:
        """Block until the stream has reached it. Raises the DeviceError of a failed operation before it."""


class Stream(Protocol):
    """Runs its operations one after another, at the same time as those of other streams."""

    name: str

    def copy(self, *pairs: tuple[Buffer, Buffer]) -> None:
        """Copy from the second buffer of each pair to the first. Both have the same dtype and shape."""

    def update(self, updates: Sequence[Update]) -> None:
        """Run these sampler updates in order."""

    def record(self) -> Event:
        """Record an event after all operations so far. An operation that failed since the last recorded event
        fails this one."""

    def mark(self) -> Event:
        """Like `record`, for timing only: does not consume a pending failure."""

    def wait(self, event: Event, *, needs: bool) -> None:
        """Wait for the event. With `needs`, a failure before it also fails the work that follows on this
        stream."""

    def check(self, check: Callable[[], None]) -> None:
        """Call `check` once the stream gets here; an exception of it fails the work that follows.

        So work that is no longer wanted is left out. A GPU's streams do nothing: they cannot call Python.
        """


class Device(Protocol):
    """A processor and its memory, where engines run."""

    @property
    def description(self) -> str:
        """Name of the device, for people."""

    def activate(self) -> None:
        """Make it the calling thread's current device. Each thread must call this first."""

    def stream(self, name: str) -> Stream:
        """A new stream."""

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """Allocate uninitialised memory on the device. Raises OutOfMemory."""

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """Allocate host memory, with an `array`, that the device copies from and to at full speed.

        It is page-locked for a GPU. Raises OutOfMemory.
        """

    def release(self, *buffers: Buffer) -> None:
        """Free the memory of buffers that nothing may use any more, before the device is closed."""

    def trim(self) -> None:
        """Give memory that has been freed, and is kept for later allocations, to other processes."""

    def free_bytes(self) -> int:
        """Bytes of the device's memory that can still be allocated."""

    def close(self) -> None:
        """Wait for all streams and free all memory. The device's buffers must not be used afterwards."""
