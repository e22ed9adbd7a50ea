"""The stand-in for `cuda.core`: the calls the project uses, as the documentation of version 1.2 has them,
strictly. Any other is an AttributeError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .kernel import LaunchConfig, Program, ProgramOptions, launch
from .memory import Access, Allocation
from .streams import GPU, INSTALLED, Mark, Queue, Task, api, when_gone

__all__ = [
    "Device",
    "EventOptions",
    "LaunchConfig",
    "LegacyPinnedMemoryResource",
    "Program",
    "ProgramOptions",
    "launch",
]

OUT_OF_MEMORY = (
    "CUDA_ERROR_OUT_OF_MEMORY: The API call failed because it was unable to allocate enough memory or other "
    "resources to perform the requested operation."
)


class CUDAError(Exception):
    """Of a private module; its text begins with the code."""


class Handle:
    """As those of cuda.bindings: no int, but int() makes it one."""

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

    @api(anywhere=True)
    def set_current(self) -> None:
        self.gpu.local.current = True

    @api(unsafe=True)
    def create_stream(self) -> Stream:
        return Stream(self.gpu, self.gpu.new_queue())

    @api(unsafe=True)
    def allocate(self, size: int, *, stream: Stream) -> Buffer:
        """Stream-ordered: there is memory for who comes after this point of the stream."""
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
    """Given back at a point of a stream."""

    def __init__(self, gpu: GPU, allocation: Allocation, queue: Queue):
        self.gpu, self.allocation, self.queue = gpu, allocation, queue

    @api(anywhere=True, unsafe=True)
    def deallocate(self, stream: Stream | None) -> None:
        gpu, allocation = self.gpu, self.allocation
        queue = stream.queue if stream else self.queue
        order(gpu, queue, "a deallocation", allocation, lambda: gpu.memory.free(allocation))


class PinnedMemory:
    """Given back at once, whatever streams do."""

    def __init__(self, gpu: GPU, allocation: Allocation):
        self.gpu, self.allocation = gpu, allocation

    @api(anywhere=True, unsafe=True)
    def deallocate(self, stream: Stream | None) -> None:
        if stream is not None:
            stream.sync()
        self.gpu.free(self.allocation)


class LegacyPinnedMemoryResource:
    def __init__(self) -> None:
        self.gpu = INSTALLED[0]

    @api(unsafe=True)
    def allocate(self, size: int) -> Buffer:
        return Buffer(PinnedMemory(self.gpu, self.gpu.memory.allocate(size, "host")))


class Buffer:
    """Memory that is given back when this is closed or forgotten."""

    def __init__(self, memory: PoolMemory | PinnedMemory):
        self.handle = memory.allocation.address
        self.size = memory.allocation.num_bytes
        self.memory = memory
        self.forgotten = when_gone(memory.gpu, self, memory.deallocate, None)

    def close(self, stream: Stream | None = None) -> None:
        if self.forgotten.detach():
            self.memory.deallocate(stream)
        self.handle = 0


class Stream:
    def __init__(self, gpu: GPU, queue: Queue):
        self.gpu = gpu
        self.queue = queue
        when_gone(gpu, self, setattr, queue, "closed", True)  # what is still on it will run

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
    def wait(self, event: Event) -> None:
        self.gpu.enqueue(self.queue, Task("a wait", after=event.mark))


class Event:
    """Recorded once, when it was made."""

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
        return bool(self.query())

    @api(anywhere=True, unsafe=True)
    def query(self) -> bool:
        """May be late to know what nobody has waited for; who is told that it is done has waited."""
        mark, gpu = self.mark, self.gpu
        known = mark.position <= gpu.host.get(mark.queue.index, 0)
        done = known or (mark.done and gpu.random.random() < 0.5)
        if done or mark.capture is not None:
            gpu.finish(mark)
        else:
            gpu.step()
        return done

    def __sub__(self, other: Event) -> float:
        """Milliseconds."""
        if not (self.options.timing_enabled and other.options.timing_enabled):
            raise RuntimeError("Both Events must be created with timing enabled in order to subtract them")
        if self.task.ran_s is None or other.task.ran_s is None:
            raise RuntimeError("One or both events have not completed")
        return (self.task.ran_s - other.task.ran_s) * 1e3
