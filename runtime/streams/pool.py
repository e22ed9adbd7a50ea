"""The buffer pool. A clip leases the buffers it needs and gives them back, and later clips reuse them.

A buffer may be given back while operations still use it. It records them (operations.py), so it can be leased
again at once: the next operation on it waits on its stream, and the host does not wait.

The pool holds little more memory than has been in use at once: before it allocates more, it releases free
buffers of other shapes. Once a clip has ended, `trim` also limits the bytes of free buffers.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import prod
from threading import RLock
from typing import TypeVar

from ...engines.contract import ITEM_BYTES, DType, TensorSpec
from ...engines.device import Buffer, Device
from ...errors import DeviceError, OutOfMemory
from .operations import forget_content, settle, users

# Page-locked buffers per kind. Once there are that many, a free buffer that is still in use on a stream is
# reused, and waited for, instead of allocating another. Not a limit: if none is free, more are allocated.
HOST_RING = 8
# How much more than the maximum in use at once may be allocated on the device, as a fraction of it. Without
# any, every clip would release and allocate buffers, as it needs some of them early and others late.
SLACK = 0.25
HOST_SLACK_BYTES = 1 << 26  # the same for the host, whose buffers are few, and free while streams use them
# Bytes of free buffers, of the device and of the host each, that stay allocated between clips.
MAX_IDLE_BYTES = 1 << 28

Kind = tuple[DType, tuple[int, ...]]
T = TypeVar("T")


class FreeList:
    """The free buffers in one memory, the device's or the host's, and what is allocated there."""

    def __init__(self) -> None:
        self.allocated_bytes = 0
        self.free_bytes = 0
        self.peak_bytes = 0  # maximum of `used_bytes`
        self.by_age: dict[int, Buffer] = {}  # free buffers by id, least recently used first
        self.by_kind: defaultdict[Kind, deque[Buffer]] = defaultdict(deque)  # the same ones
        self.num_allocated: defaultdict[Kind, int] = defaultdict(int)

    def put(self, buffer: Buffer) -> None:
        self.by_age[id(buffer)] = buffer
        self.by_kind[buffer.dtype, buffer.shape].append(buffer)
        self.free_bytes += buffer.num_bytes

    def take(self, buffer: Buffer) -> Buffer:
        """Take a buffer out of the list."""
        del self.by_age[id(buffer)]
        self.by_kind[buffer.dtype, buffer.shape].remove(buffer)
        self.free_bytes -= buffer.num_bytes
        return buffer

    def count(self, buffer: Buffer, change: int) -> None:
        """Count a buffer that has been allocated (1), or is released (-1)."""
        self.allocated_bytes += change * buffer.num_bytes
        self.num_allocated[buffer.dtype, buffer.shape] += change

    @property
    def used_bytes(self) -> int:
        return self.allocated_bytes - self.free_bytes


class Pool:
    """Free buffers of one device and of the host.

    Safe to use from several threads, and from a garbage collector that closes a clip in the middle of a call.
    """

    def __init__(self, device: Device):
        self.device = device
        self.free = {of_host: FreeList() for of_host in (False, True)}
        self.closed = False
        self.lock = RLock()
        # Gives back what nobody uses but others would like to keep; called when the device is full.
        self.drop_caches: Callable[[], None] = lambda: None

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all buffers on the device."""
        return self.free[False].allocated_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes of all free buffers, on the device and of the host."""
        return sum(free.free_bytes for free in self.free.values())

    def take(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """Return a device buffer; its content is arbitrary. Raises OutOfMemory."""
        return self._reuse(False, dtype, shape) or self.allocate(dtype, shape)

    def allocate(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """Allocate a device buffer, which need not be given back. Raises OutOfMemory."""
        return self._allocate(False, dtype, shape)

    def take_host(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """Return a host buffer; its content is arbitrary. Raises OutOfMemory."""
        return self._reuse(True, dtype, shape) or self._allocate(True, dtype, shape)

    def give(self, *buffers: Buffer) -> None:
        """Give buffers back."""
        with self.lock:
            for buffer in () if self.closed else buffers:
                self.free[buffer.of_host].put(buffer)

    def with_room(self, make: Callable[[], T]) -> T:
        """Return `make()`. If it raises OutOfMemory, release what is free and call it again."""
        for make_room in (self._release_free, self._drop_caches):
            try:
                return make()
            except OutOfMemory:
                make_room()
        return make()

    def trim(self) -> None:
        """Release free buffers until MAX_IDLE_BYTES are left, least recently used first, and trim the device.

        Called when a clip has ended. Does not wait: skips buffers that operations still use. An error of the
        device is raised by its next use.
        """
        with suppress(DeviceError):
            self.device.activate()
            for free in self.free.values():
                self._release(free, free.free_bytes - MAX_IDLE_BYTES, wait=False)
            self.device.trim()

    def close(self) -> None:
        """Forget all buffers, including those given back later. Closing the device frees their memory."""
        with self.lock:
            self.closed = True
            self.free = {of_host: FreeList() for of_host in self.free}

    def _reuse(self, of_host: bool, dtype: DType, shape: tuple[int, ...]) -> Buffer | None:
        with self.lock:
            free, kind = self.free[of_host], (dtype, shape)
            oldest = next(iter(free.by_kind[kind]), None)
            few = of_host and free.num_allocated[kind] < HOST_RING
            if oldest is None or (few and not is_done(oldest)):
                return None
            buffer = free.take(oldest)
            free.peak_bytes = max(free.peak_bytes, free.used_bytes)
        forget_content(buffer)
        return buffer

    def _allocate(self, of_host: bool, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        self.device.activate()
        free, new = self.free[of_host], self.device.host_buffer if of_host else self.device.buffer
        used_bytes = free.used_bytes + prod(shape) * ITEM_BYTES[dtype]
        peak_bytes = max(free.peak_bytes, used_bytes)
        limit = peak_bytes + (HOST_SLACK_BYTES if of_host else int(SLACK * peak_bytes))
        self._release(free, free.free_bytes + used_bytes - limit, wait=False)
        buffer = self.with_room(lambda: new(dtype, shape))
        with self.lock:
            free.count(buffer, 1)
            free.peak_bytes = max(free.peak_bytes, free.used_bytes)
        return buffer

    def _release_free(self) -> None:
        for free in self.free.values():
            self._release(free, free.free_bytes, wait=True)
        self.device.trim()

    def _drop_caches(self) -> None:
        self.drop_caches()
        self._release_free()

    def _release(self, free: FreeList, num_bytes: int, *, wait: bool) -> None:
        """Release free buffers, least recently used first, until `num_bytes` are released.

        Without `wait`, skip those that operations still use.
        """
        buffers: list[Buffer] = []
        if num_bytes <= 0:
            return
        with self.lock:
            for buffer in list(free.by_age.values()):
                if num_bytes > 0 and (wait or is_done(buffer)):
                    buffers.append(free.take(buffer))
                    free.count(buffer, -1)
                    num_bytes -= buffer.num_bytes
        for buffer in buffers:
            for event in tuple(users(buffer)):
                settle(event)  # the device frees memory at once, in use or not
        if buffers:
            self.device.release(*buffers)


def is_done(buffer: Buffer) -> bool:
    """Return whether no operation uses the buffer any more."""
    return all(event.done for event in users(buffer))


class Lease:
    """The buffers that one user has taken from the pool; `close` gives back the remaining ones."""

    def __init__(self, pool: Pool):
        self.pool = pool
        self.held: dict[int, Buffer] = {}

    def take(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        return self._hold(self.pool.take(dtype, shape))

    def take_host(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        return self._hold(self.pool.take_host(dtype, shape))

    def take_all(self, specs: Iterable[TensorSpec]) -> list[Buffer]:
        return [self.take(spec.dtype, spec.shape) for spec in specs]

    def give(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            del self.held[id(buffer)]
            self.pool.give(buffer)

    def close(self) -> None:
        self.give(*self.held.values())

    def _hold(self, buffer: Buffer) -> Buffer:
        self.held[id(buffer)] = buffer
        return buffer
