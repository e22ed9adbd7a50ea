"""The stand-in's address space. Device memory has addresses that the host cannot have; page-locked host
memory has its real addresses. No address is used twice, a gap follows every allocation of device memory, and
memory is poisoned when it is allocated and again when it is freed."""

from __future__ import annotations

import mmap
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Kind = Literal["device", "host", "context"]  # a context is not memory, but may only be used once at a time

POISON = 0xFF  # in every byte: NaN as float32 and float16, -1 as int32
DEVICE_BASE = 1 << 49  # above the addresses that a process can have
ALIGNMENT = 256
GAP = 4096


class StandInError(pytest.fail.Exception):  # type: ignore[name-defined,misc]
    """A mistake in the use of CUDA or TensorRT; it fails the test. Not a subclass of Exception, so that code
    that translates exceptions cannot hide it."""


@dataclass(slots=True)
class Access:
    """Bytes that an operation reads or writes."""

    start: int
    stop: int
    write: bool
    queue: int = 0  # the number of the stream, and the operation's position on it
    position: int = 0
    name: str = ""

    def overlaps(self, other: Access) -> bool:
        return self.start < other.stop and other.start < self.stop

    def covers(self, other: Access) -> bool:
        return self.start <= other.start and other.stop <= self.stop


@dataclass(slots=True, eq=False)
class Allocation:
    address: int
    num_bytes: int
    kind: Kind
    data: Bytes
    live: bool = True
    accesses: list[Access] = field(default_factory=list)  # those that later operations may conflict with

    def poison(self, start: int, stop: int) -> None:
        self.data[start - self.address : stop - self.address] = POISON


class Memory:
    """All allocations since the start, and the allocation at an address."""

    def __init__(self, total_bytes: int):
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self.reserved_bytes = 0  # freed memory stays reserved until the pool is trimmed
        self.next = DEVICE_BASE
        self.allocations: dict[int, Allocation] = {}
        self.addresses: list[int] = []
        self.mistakes: list[StandInError] = []
        self.mappings: list[Any] = []  # kept: host views of freed memory read poison and do not crash

    def allocate(self, num_bytes: int, kind: Kind) -> Allocation:
        if kind == "host":
            mapping = mmap.mmap(-1, num_bytes)
            self.mappings.append(mapping)
            data = np.frombuffer(mapping, np.uint8)
            address = data.ctypes.data
        else:
            data = np.empty(num_bytes, np.uint8)
            address = self.next
            self.next += -(-(num_bytes + GAP) // ALIGNMENT) * ALIGNMENT
            self.used_bytes += num_bytes if kind == "device" else 0
            self.reserved_bytes = max(self.reserved_bytes, self.used_bytes)
        data[:] = POISON
        allocation = self.allocations[address] = Allocation(address, num_bytes, kind, data)
        insort(self.addresses, address)
        return allocation

    def free(self, allocation: Allocation) -> None:
        if not allocation.live:
            self.refuse(f"memory at {allocation.address:#x} is freed twice")
        allocation.live = False
        allocation.data[:] = POISON
        if allocation.kind == "device":
            allocation.data = allocation.data[:0].copy()
            self.used_bytes -= allocation.num_bytes

    def find(self, address: int, num_bytes: int, what: str, kind: Kind | None = None) -> Allocation:
        """The live allocation that contains all these bytes."""
        i = bisect_right(self.addresses, address) - 1
        found = self.allocations[self.addresses[i]] if i >= 0 else None
        if found is None or address >= found.address + found.num_bytes:
            self.refuse(f"{what}: no device or page-locked memory at {address:#x}")
        if not found.live:
            self.refuse(f"{what}: the memory at {found.address:#x} has been freed")
        if address + num_bytes > found.address + found.num_bytes:
            self.refuse(
                f"{what}: {num_bytes} bytes at {address:#x} end outside the {found.num_bytes} at "
                f"{found.address:#x}"
            )
        if kind is not None and found.kind != kind:
            self.refuse(f"{what}: expected {kind} memory at {address:#x}, found {found.kind} memory")
        return found

    def view(self, address: int, num_bytes: int, what: str, kind: Kind | None = None) -> Bytes:
        found = self.find(address, num_bytes, what, kind)
        return found.data[address - found.address :][:num_bytes]

    def refuse(self, mistake: str) -> NoReturn:
        """Raise StandInError, and record it in case it is caught."""
        self.mistakes.append(StandInError(mistake))
        raise self.mistakes[-1]
