"""The stand-in for `cuda.core`: the calls that the project uses, exactly as documented for version 1.2. Any
other is an AttributeError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .kernel import Kernel, LaunchConfig, ObjectCode, Program, ProgramOptions, launch
from .memory import Access, Allocation
from .streams import GPU, INSTALLED, Mark, Queue, Task, api, when_gone

__all__ = [
    "Buffer",
    "Device",
    "DeviceMemoryResource",
    "Event",
    "EventOptions",
    "Kernel",
    "LaunchConfig",
    "LegacyPinnedMemoryResource",
    "ObjectCode",
    "Program",
    "ProgramOptions",
    "Stream",
    "launch",
]

POOL = 0x9001  # handle of the device's memory pool
OUT_OF_MEMORY = (
    "CUDA_ERROR_OUT_OF_MEMORY: The API call failed because it was unable to allocate enough memory or other "
    "resources to perform the requested operation."
)


class CUDAError(Exception):
    """The real one is in a private module. The message begins with the error code."""


class Handle:
    """A handle as in cuda.bindings: not an int, but int() converts it."""

    def __init__(self, value: int):
        self.value = value

    def __int__(self) -> int:
        return self.value


@dataclass
class EventOptions:
    timing_enabled: bool = False
    blocking_sync: bool = False


class Device:
    name = "Stand-in GPU"
    device_id = 0

    def __init__(self, device_id: int):
        assert device_id == 0, f"there is no device {device_id}"
        self.gpu = INSTALLED[0]

    @property
    def arch(self) -> str:
        return self.gpu.capability[2:]

    @property
    def compute_capability(self) -> tuple[int, int]:
        number = int(self.arch)
        return number // 10, number % 10

    @property
    def memory_resource(self) -> DeviceMemoryResource:
        return DeviceMemoryResource(self.gpu)

    @api(anywhere=True)
    def set_current(self) -> None:
        self.gpu.local.current = True

    @api(unsafe=True)
    def create_stream(self) -> Stream:
        return Stream(self.gpu, self.gpu.new_queue())

    @api(unsafe=True)
    def allocate(self, size: int, *, stream: Stream) -> Buffer:
        """Stream-ordered: the memory may be used by work that comes after this point of the stream."""
        memory = self.gpu.memory
        if memory.used_bytes + size > memory.total_bytes:
            raise CUDAError(OUT_OF_MEMORY)
        allocation = memory.allocate(size, "device")
        order(self.gpu, stream.queue, "an allocation", allocation)
        return Buffer(PoolMemory(self.gpu, allocation, stream.queue))

    @api(unsafe=True)
    def sync(self) -> None:
        self.gpu.finish_all()


def order(gpu: GPU, queue: Queue, name: str, memory: Allocation, run: Any = lambda: None) -> None:
    everything = Access(memory.address, memory.address + memory.num_bytes, write=True)
    gpu.enqueue(queue, Task(name, run, (everything,)))


class PoolMemory:
    """Memory that is freed at a point of a stream."""

    def __init__(self, gpu: GPU, allocation: Allocation, queue: Queue):
        self.gpu, self.allocation, self.queue = gpu, allocation, queue

    @api(anywhere=True, unsafe=True)
    def deallocate(self, stream: Stream | None) -> None:
        gpu, allocation = self.gpu, self.allocation
        queue = stream.queue if stream else self.queue
        order(gpu, queue, "a deallocation", allocation, lambda: gpu.memory.free(allocation))


class PinnedMemory:
    """Memory that is freed at once, whatever streams are doing."""

    def __init__(self, gpu: GPU, allocation: Allocation):
        self.gpu, self.allocation = gpu, allocation

    @api(anywhere=True, unsafe=True)
    def deallocate(self, stream: Stream | None) -> None:
        if stream is not None:
            stream.sync()
        self.gpu.free(self.allocation)


class DeviceMemoryResource:
    """The device's memory pool. Its release threshold is the largest number, so it keeps freed memory."""

    handle = Handle(POOL)

    def __init__(self, gpu: GPU):
        self.attributes = MemPoolAttributes(gpu)


class MemPoolAttributes:
    def __init__(self, gpu: GPU):
        self.memory = gpu.memory

    @property
    def reserved_mem_current(self) -> int:
        return self.memory.reserved_bytes

    @property
    def used_mem_current(self) -> int:
        return self.memory.used_bytes


class LegacyPinnedMemoryResource:
    def __init__(self) -> None:
        self.gpu = INSTALLED[0]

    @api(unsafe=True)
    def allocate(self, size: int) -> Buffer:
        return Buffer(PinnedMemory(self.gpu, self.gpu.memory.allocate(size, "host")))


class Buffer:
    """Memory that is freed when the buffer is closed or garbage-collected."""

    def __init__(self, memory: PoolMemory | PinnedMemory):
        self.handle = memory.allocation.address
        self.size = memory.allocation.num_bytes
        self.memory = memory
        self.finalizer = when_gone(memory.gpu, self, memory.deallocate, None)

    def close(self, stream: Stream | None = None) -> None:
        if self.finalizer.detach():
            self.memory.deallocate(stream)
        self.handle = 0


class Stream:
    def __init__(self, gpu: GPU, queue: Queue):
        self.gpu = gpu
        self.queue = queue
        when_gone(gpu, self, setattr, queue, "closed", True)  # work already on it still runs

    @property
    def handle(self) -> Handle:
        return Handle(self.queue.handle)

    @api(unsafe=True)
    def sync(self) -> None:
        self.gpu.finish(Mark(self.queue, self.queue.enqueued, dict(self.queue.clock)))

    @api()
    def record(self, *, options: EventOptions) -> Event:
        task = Task("an event")
        return Event(self.gpu, options, task, self.gpu.enqueue(self.queue, task))

    @api()
    def wait(self, event_or_stream: Event) -> None:
        self.gpu.enqueue(self.queue, Task("a wait", after=event_or_stream.mark))


class Event:
    """Recorded once, when it is created."""

    def __init__(self, gpu: GPU, options: EventOptions, task: Task, mark: Mark):
        self.gpu = gpu
        self.options = options
        self.task = task
        self.mark = mark

    @api(anywhere=True, unsafe=True)
    def sync(self) -> None:
        self.gpu.finish(self.mark)

    @property
    def is_done(self) -> bool:
        return bool(self._query())

    @api(anywhere=True, unsafe=True)
    def _query(self) -> bool:
        """True may come late if nobody has waited for the event. True counts as having waited for it."""
        mark, gpu = self.mark, self.gpu
        known = mark.position <= gpu.host.get(mark.queue.index, 0)
        done = known or (mark.done and gpu.random.random() < 0.5)
        if done or mark.capture is not None:
            gpu.finish(mark)
        else:
            gpu.step()
        return done

    def __sub__(self, other: Event) -> float:
        """Milliseconds between the events."""
        if not (self.options.timing_enabled and other.options.timing_enabled):
            raise RuntimeError("Both Events must be created with timing enabled in order to subtract them")
        if self.task.ran_s is None or other.task.ran_s is None:
            raise RuntimeError("One or both events have not completed")
        return (self.task.ran_s - other.task.ran_s) * 1e3
