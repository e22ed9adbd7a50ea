"""The pool: buffers between their uses. A clip takes what it needs and gives it back, the next one finds it.

What an operation still does with a buffer that came back is noted in the buffer, so it can be taken again at
once: the next operation on it waits on its stream, not here.
"""

from __future__ import annotations

from collections import defaultdict, deque
from threading import Lock

from ..engines.contract import DType
from ..engines.device import Buffer, Device
from .operations import users

HOST_RING = 8  # page-locked buffers of a kind that are in use before one is waited for

Kind = tuple[bool, DType, tuple[int, ...]]


class Pool:
    """Safe to use from several threads."""

    def __init__(self, device: Device):
        self.device = device
        self.allocated_bytes = 0  # on the device; grows while clips are larger than any before
        self.free: defaultdict[Kind, deque[Buffer]] = defaultdict(deque)
        self.num_host: defaultdict[Kind, int] = defaultdict(int)
        self.lock = Lock()

    def take(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """A buffer on the device, whatever it holds."""
        with self.lock:
            free = self.free[False, dtype, shape]
            if free:
                return free.popleft()
        buffer = self.device.buffer(dtype, shape)
        with self.lock:
            self.allocated_bytes += buffer.num_bytes
        return buffer

    def take_host(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        """A buffer of the host's; one that is still being copied from only where there are many."""
        kind = (True, dtype, shape)
        with self.lock:
            free = self.free[kind]
            if free and (self.num_host[kind] >= HOST_RING or all(event.done for event in users(free[0]))):
                return free.popleft()
            self.num_host[kind] += 1
        return self.device.host_buffer(dtype, shape)

    def give(self, *buffers: Buffer) -> None:
        with self.lock:
            for buffer in buffers:
                self.free[False, buffer.dtype, buffer.shape].append(buffer)

    def give_host(self, *buffers: Buffer) -> None:
        with self.lock:
            for buffer in buffers:
                self.free[True, buffer.dtype, buffer.shape].append(buffer)
