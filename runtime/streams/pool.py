"""The pool: buffers between their uses. A clip leases what it needs and gives it back, the next one finds it.

What an operation still does with a buffer that came back is noted in the buffer, so it can be taken again at
once: the next operation on it waits on its stream, not here.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from threading import RLock

from ...engines.contract import DType, TensorSpec
from ...engines.device import Buffer, Device
from ...errors import OutOfMemory
from .operations import forget_content, settle, users

HOST_RING = 8  # page-locked buffers of a kind; past that one that is still in use is waited for, not added to

Kind = tuple[bool, DType, tuple[int, ...]]


class Pool:
    """Safe to use from several threads, and from a garbage collector that runs in the middle of it."""

    def __init__(self, device: Device):
        self.device = device
        self.allocated_bytes = 0  # on the device
        self.free: defaultdict[Kind, deque[Buffer]] = defaultdict(deque)
        self.num_host: defaultdict[Kind, int] = defaultdict(int)
        self.closed = False
        self.lock = RLock()

    def take(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """A buffer on the device, whatever it holds. Raises OutOfMemory."""
        return self._free(False, dtype, shape) or self.allocate(dtype, shape)

    def allocate(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """A new buffer on the device, for those who do not give it back. Raises OutOfMemory."""
        self.device.activate()
        try:
            buffer = self.device.buffer(dtype, shape)
        except OutOfMemory:
            self._release_free()  # of other shapes, from clips of other lengths and overlaps
            buffer = self.device.buffer(dtype, shape)
        with self.lock:
            self.allocated_bytes += buffer.num_bytes
        return buffer

    def take_host(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """A buffer of the host's."""
        buffer = self._free(True, dtype, shape)
        if buffer is None:
            with self.lock:
                self.num_host[True, dtype, shape] += 1
            self.device.activate()
            buffer = self.device.host_buffer(dtype, shape)
        return buffer

    def give(self, *buffers: Buffer) -> None:
        with self.lock:
            for buffer in () if self.closed else buffers:
                self.free[buffer.of_host, buffer.dtype, buffer.shape].append(buffer)

    def close(self) -> None:
        """Forget everything, what is still to come back included; the device is closed."""
        with self.lock:
            self.closed = True
            self.free.clear()

    def _free(self, of_host: bool, dtype: DType, shape: tuple[int, ...]) -> Buffer | None:
        kind = (of_host, dtype, shape)
        with self.lock:
            free = self.free[kind]
            few = of_host and self.num_host[kind] < HOST_RING
            if not free or (few and not all(event.done for event in users(free[0]))):
                return None
            buffer = free.popleft()
        forget_content(buffer)
        return buffer

    def _release_free(self) -> None:
        with self.lock:
            kinds = [kind for kind in self.free if not kind[0]]
            buffers = [buffer for kind in kinds for buffer in self.free.pop(kind)]
            self.allocated_bytes -= sum(buffer.num_bytes for buffer in buffers)
        for buffer in buffers:
            for event in tuple(users(buffer)):
                settle(event)  # the device gives memory back at once
            self.device.release(buffer)


class Lease:
    """What one user holds of the pool; closing it gives back all that is left."""

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
