"""Devices: streams run what is put on them in order, events order streams against each other, buffers are
memory. The runtime drives every device through these names alone.

On the CPU a stream is a worker thread and memory is numpy's (cpu.py); on an NVIDIA GPU both are CUDA's
(cuda.py). Calls on a stream return at once; what fails later is raised by whoever waits for an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from .contract import ITEM_BYTES, DType

Array = NDArray[Any]


class Buffer:
    """Contiguous memory of one tensor. Its rows, along the first axis, are buffers in the same memory.

    `array` is the memory as numpy sees it, where the host may look: on the CPU, and in page-locked memory.
    `owner` is whose memory it is: itself, or the buffer it is rows of. What still uses memory is noted there:
    `writer` is the last operation that wrote it, `readers` the last one of each stream that has read it since
    (runtime/operations.py).
    """

    __slots__ = (
        "address",
        "array",
        "dtype",
        "memory",
        "num_bytes",
        "of_host",
        "owner",
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
        self.owner = owner or self
        self.writer: Any = None
        self.readers: dict[Stream, Any] = {}

    def rows(self, start: int, stop: int) -> Buffer:
        """Rows start to stop, in the same memory."""
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


class Update(NamedTuple):
    """What becomes of some frames' latents after a window has been predicted: the sampler, on the device.

        sum = prediction                   if `total` is None or `first`
        sum = total + prediction           otherwise
        latents = a * latents + b * sum    if `last`
        total = sum                        otherwise

    All float32 and of one shape (frames, 4, h, w); a product is rounded before it is added, on every device.
    """

    latents: Buffer
    total: Buffer | None  # needed where several windows cover the frames
    prediction: Buffer
    first: bool  # of the windows that cover these frames
    last: bool
    a: float
    b: float


class Event(Protocol):
    """A point of a stream's work."""

    @property
    def stream(self) -> Stream:
        """Whose."""

    @property
    def done(self) -> bool:
        """Whether the stream has come past it."""

    @property
    def time_s(self) -> float:
        """When it did, in seconds since the device was opened; of a device that keeps time, once done."""

    def synchronize(self) -> None:
        """Wait here until it has. Raises the DeviceError of what came before it and failed."""


class Stream(Protocol):
    """Work in order, one after another; at the same time as that of other streams."""

    name: str

    def copy(self, *pairs: tuple[Buffer, Buffer]) -> None:
        """Copy into the first buffer of each pair what the second holds: same dtype, same shape."""

    def update(self, updates: Sequence[Update]) -> None:
        """Carry out sampler updates."""

    def record(self) -> Event:
        """The point after everything put on the stream so far. What failed since the last such point fails
        this event."""

    def mark(self) -> Event:
        """The same point for those who only want to know when it was: it takes no failure."""

    def wait(self, event: Event, *, needs: bool) -> None:
        """Go on after that event. With `needs`, what follows is no good if what came before it failed."""


class Device(Protocol):
    """Where engines run and clips are made."""

    @property
    def description(self) -> str:
        """For people: what it is."""

    def activate(self) -> None:
        """Make it the calling thread's device; before anything else is asked of it in that thread."""

    def stream(self, name: str) -> Stream:
        """A new stream."""

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """New memory on the device, not initialised. Raises OutOfMemory."""

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """New memory of the host's that the device copies from and to at full speed; has an `array`."""

    def release(self, buffer: Buffer) -> None:
        """Give memory of `buffer` back before the device is closed. Nothing uses it any more."""

    def free_bytes(self) -> int:
        """Memory not in use by anyone."""

    def close(self) -> None:
        """Wait for all streams and give everything back. Buffers of this device are not used afterwards."""
