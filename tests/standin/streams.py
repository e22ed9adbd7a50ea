"""The stand-in's GPU: streams whose work runs late, in a random order that events permit.

Work stays on its stream until the host waits for it, or until an earlier moment that a seed decides. Every
operation also has a vector clock of the operations before it, so two operations on the same bytes without an
order between them are found in every random order. All host threads share one clock: a wait by one of them
counts for all.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from random import Random
from typing import Any, NoReturn
from zlib import crc32

from .memory import Access, Allocation, Memory, StandInError

Clock = dict[int, int]  # by stream, how many of its operations come before
HASTES = (0.0, 0.3, 0.8)  # probability that the GPU runs something the host does not wait for
INSTALLED: list[GPU] = []  # the installed GPU, if any


@dataclass(slots=True, eq=False)
class Task:
    """An entry of a stream: an operation, an event or a wait."""

    name: str
    run: Callable[[], object] = lambda: None
    accesses: Sequence[Access] = ()
    after: Mark | None = None
    checks: list[tuple[Access, int]] = field(default_factory=list)  # checksums of page-locked memory
    ran_s: float | None = None


@dataclass(slots=True, eq=False)
class Mark:
    """A point of a stream, and the operations before it on all streams."""

    queue: Queue
    position: int
    clock: Clock
    capture: Capture | None = None  # if the point is in a capture

    @property
    def done(self) -> bool:
        return self.queue.executed >= self.position


@dataclass(slots=True, eq=False)
class Capture:
    """The work put on a stream while it is being captured."""

    thread: int
    tasks: list[Task] = field(default_factory=list)
    valid: bool = True


class Queue:
    """A stream's work."""

    def __init__(self, index: int):
        self.index = index
        self.handle = 0x5EA0000 + 16 * index
        self.pending: deque[Task] = deque()
        self.enqueued = self.executed = 0
        self.clock: Clock = {}
        self.capture: Capture | None = None
        self.closed = False

    @property
    def ready(self) -> bool:
        if not self.pending:
            return False
        after = self.pending[0].after
        return after is None or after.done


class GPU:
    """The device, its streams and its memory.

    `faults` has the errors that API calls fail with, by name ("Event.sync"); `calls` counts the calls. With
    `uncapturable` an execution invalidates a capture, and fails at once ("run") or lets its end fail ("end").
    """

    uncapturable = ""

    def __init__(self, seed: int = 0, *, capability: str = "SM90", total_bytes: int = 1 << 30):
        self.capability = capability
        self.random = Random(seed)
        self.haste = HASTES[seed % len(HASTES)]
        self.memory = Memory(total_bytes)
        self.queues: list[Queue] = []
        self.host: Clock = {}
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, Any] = {}
        self.lock = threading.RLock()
        self.local = threading.local()

    def refuse(self, mistake: str) -> NoReturn:
        self.memory.refuse(mistake)

    # Streams

    def new_queue(self) -> Queue:
        self.queues.append(Queue(len(self.queues)))
        return self.queues[-1]

    def queue(self, handle: int) -> Queue:
        for queue in self.queues:
            if queue.handle == handle:
                return queue
        self.refuse(f"{handle:#x} is no stream's handle")

    def enqueue(self, queue: Queue, task: Task) -> Mark:
        """Put a task on the stream, or into the stream's capture."""
        for access in task.accesses:
            self.memory.find(access.start, access.stop - access.start, task.name)
        if queue.closed:
            self.refuse(f"{task.name} on a stream that has been closed")
        if task.after is not None and task.after.capture is not queue.capture:
            self.refuse("a stream waits for an event across the bounds of a capture")
        if queue.capture is not None:
            queue.capture.tasks.append(task)
            return Mark(queue, 0, {}, queue.capture)
        clock, position = dict(queue.clock), queue.enqueued + 1
        merge(clock, self.host)
        if task.after is not None:
            merge(clock, task.after.clock)
        clock[queue.index] = position
        for access in task.accesses:
            access.queue, access.position, access.name = queue.index, position, task.name
            self.check_order(access, clock)
        for access in task.accesses:
            self.claim(task, access)
        queue.clock, queue.enqueued = clock, position
        queue.pending.append(task)
        while self.random.random() < self.haste and self.step():
            pass
        return Mark(queue, position, dict(clock))

    def check_order(self, access: Access, clock: Clock) -> None:
        """Refuse an access if another one to the same bytes may run at the same time."""
        for old in self.memory.find(access.start, 1, access.name).accesses:
            if (
                old.overlaps(access)
                and (old.write or access.write)
                and clock.get(old.queue, 0) < old.position
            ):
                self.refuse(
                    f"no order between {old.name} (stream {old.queue}) and {access.name} (stream "
                    f"{access.queue}), which {'writes' if access.write else 'reads'} the same memory at "
                    f"{access.start:#x}"
                )

    def claim(self, task: Task, access: Access) -> None:
        """Record an access, to compare later ones with it, and protect page-locked memory from the host.

        Until the task has run, memory to be written holds poison, and a checksum finds changes by the host.
        """
        where = self.memory.find(access.start, 1, access.name)
        if where.kind == "host":
            pending = [
                old
                for old in where.accesses
                if old.overlaps(access) and self.queues[old.queue].executed < old.position
            ]
            if access.write and not pending:
                where.poison(access.start, access.stop)
            if not any(old.write or access.write for old in pending):
                task.checks.append((access, self.checksum(access)))
        where.accesses = [
            old
            for old in where.accesses
            if old.position > self.host.get(old.queue, 0)
            and not (access.covers(old) and (access.write or (not old.write and old.queue == access.queue)))
        ]
        where.accesses.append(access)

    def checksum(self, access: Access) -> int:
        size = access.stop - access.start
        return crc32(self.memory.view(access.start, size, access.name).data)

    # Running

    def run(self, queue: Queue) -> None:
        task = queue.pending.popleft()
        queue.executed += 1
        for access, checksum in task.checks:
            if self.checksum(access) != checksum:
                self.refuse(f"the host wrote page-locked memory that {task.name} had yet to use")
        task.run()
        task.ran_s = time.perf_counter()

    def step(self) -> bool:
        """Run a random task that is ready; False if there is none."""
        ready = [queue for queue in self.queues if queue.ready]
        if ready:
            self.run(self.random.choice(ready))
        return bool(ready)

    def finish(self, mark: Mark) -> None:
        """The host waits: run what it waits for, and at random other tasks."""
        if mark.capture is not None or mark.queue.capture is not None:
            self.refuse("the host waits for a stream, or an event, that is captured")
        while not mark.done:
            if self.random.random() < self.haste:
                self.step()
                continue
            queue = mark.queue
            while not queue.ready:
                after = queue.pending[0].after
                assert after is not None
                queue = after.queue
            self.run(queue)
        merge(self.host, mark.clock)

    def finish_all(self) -> None:
        """The host waits for everything."""
        while self.step():
            pass
        for queue in self.queues:
            merge(self.host, queue.clock)

    # The API

    def enter(self, name: str, *, anywhere: bool, unsafe: bool) -> None:
        """The checks that every call begins with. `anywhere`: also allowed in threads that have not set the
        device. `unsafe`: not allowed while this thread captures a stream."""
        self.calls[name] += 1
        if not anywhere and not getattr(self.local, "current", False):
            self.refuse(f"{name} in a thread that has not set its device")
        if unsafe and any(q.capture and q.capture.thread == threading.get_ident() for q in self.queues):
            self.refuse(f"{name} while this thread captures a stream")

    def begin_capture(self, queue: Queue) -> None:
        if queue.capture is not None:
            self.refuse("a capture begins on a stream that is being captured")
        queue.capture = Capture(threading.get_ident())

    def end_capture(self, queue: Queue) -> Capture:
        capture = queue.capture
        if capture is None or capture.thread != threading.get_ident():
            self.refuse("a capture ends on a stream, or in a thread, that did not begin it")
        queue.capture = None
        return capture

    def free(self, allocation: Allocation) -> None:
        """Free memory at once: the host must have waited for everything that uses it."""
        for access in allocation.accesses:
            if access.position > self.host.get(access.queue, 0):
                self.refuse(f"memory is freed that {access.name} (stream {access.queue}) may still use")
        self.memory.free(allocation)


def merge(clock: Clock, other: Clock) -> None:
    for queue, position in other.items():
        clock[queue] = max(clock.get(queue, 0), position)


def api(*, anywhere: bool = False, unsafe: bool = False) -> Callable[[Any], Any]:
    """Make a method a call of the API: under the lock, counted, and failing as `faults` says."""

    def decorate(function: Any) -> Any:
        @wraps(function)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self.gpu.lock:
                name = function.__qualname__
                self.gpu.enter(name, anywhere=anywhere, unsafe=unsafe)
                if name not in self.gpu.faults:
                    return function(self, *args, **kwargs)
                if hasattr(self, "_fail"):  # TensorRT calls do not raise
                    return self._fail(self.gpu.faults[name])
                raise self.gpu.faults[name]

        return call

    return decorate


def when_gone(gpu: GPU, owner: object, function: Callable[..., object], *arguments: Any) -> Any:
    """Call a function when the owner is garbage-collected while the stand-in is installed. A mistake in it is
    raised at the end of `installed`."""

    def call() -> None:
        if gpu in INSTALLED:
            with suppress(StandInError):
                function(*arguments)

    end = weakref.finalize(owner, call)
    end.atexit = False
    return end
