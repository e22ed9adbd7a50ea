"""Proves that timing cannot change a clip: any two operations on a buffer, one of them a write, are ordered.

The proof does not use the runtime's inference of dependencies. Only three things order operations: those of
one stream follow each other, an operation follows the events it waits for, and an operation enqueued by the
host follows what the host has done and waited for before. Host threads count as one, as they pass buffers to
each other under a lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from animate_rt.engines.cpu.device import CPUDevice, CPUEvent, CPUStream
from animate_rt.engines.device import Buffer, Event, Stream, Update
from animate_rt.runtime.streams.operations import Operation

Place = Stream | None  # None is the host
Clock = dict[Place, int]  # how many operations of each stream, and of the host, come before


class NotingDevice(CPUDevice):
    """Records the calls that its streams really receive, whatever operations declare.

    `calls` has every copy, update and run with its buffers, and every wait. `note_host` is an observer that
    adds the operations of the host itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Operation] = []

    def stream(self, name: str) -> CPUStream:
        stream = NotingStream(name, self.opened_s, self.calls)
        self.streams.add(stream)
        return stream

    def note_host(self, operation: Operation) -> None:
        if operation.stream is None:
            self.calls.append(operation)


class NotingStream(CPUStream):
    def __init__(self, name: str, opened_s: float, calls: list[Operation]):
        self.calls = calls
        super().__init__(name, opened_s)

    def note(
        self,
        name: str,
        reads: Iterable[Buffer] = (),
        writes: Iterable[Buffer] = (),
        waits: tuple[Event, ...] = (),
        ended: Event | None = None,
    ) -> None:
        self.calls.append(Operation(name, self, tuple(reads), tuple(writes), waits, None, ended))

    def copy(self, *pairs: tuple[Buffer, Buffer]) -> None:
        self.note("copy", reads=[source for _, source in pairs], writes=[target for target, _ in pairs])
        super().copy(*pairs)

    def update(self, updates: Sequence[Update]) -> None:
        for u in updates:
            before = [u.total] if u.total and not u.first else []
            changed = [u.latents, *(term.buffer for term in u.earlier)] if u.last else []
            kept = [u.estimate.buffer] if u.estimate and u.last else []
            written = [u.latents, *kept] if u.last else [u.total] if u.total else []
            self.note("update", [u.prediction, *before, *changed], written)
        super().update(updates)

    def wait(self, event: Event, *, needs: bool) -> None:
        self.note("wait", waits=(event,))
        super().wait(event, needs=needs)

    def record(self) -> CPUEvent:
        event = super().record()
        self.note("record", ended=event)
        return event


class Access(NamedTuple):
    name: str
    where: Place
    position: int


def hazards(log: Sequence[Operation]) -> list[str]:
    """Pairs of operations on one buffer that have no order, and reads of buffers that were never written;
    empty if there are none."""
    found = []
    clocks: defaultdict[Place, Clock] = defaultdict(dict)
    ends: dict[Event, Clock] = {}
    writer: dict[Any, Access] = {}  # by buffer
    readers: defaultdict[Any, list[Access]] = defaultdict(list)
    for operation in log:
        where = operation.stream
        clock = merged(clocks[where], clocks[None], *(ends[event] for event in operation.waits))
        access = Access(operation.name, where, clock.get(where, 0) + 1)
        for buffer in {b.owner for b in (*operation.reads, *operation.writes)}:
            before = [writer[buffer]] if buffer in writer else []
            if buffer in {b.owner for b in operation.writes}:
                before += readers[buffer]
            found += [
                f"{other.name} and {access.name} on {buffer.dtype} {buffer.shape}"
                for other in before
                if clock.get(other.where, 0) < other.position
            ]
        for buffer in operation.reads:
            if buffer.owner not in writer:
                found.append(f"{access.name} of {buffer.dtype} {buffer.shape} that was never written")
            readers[buffer.owner].append(access)
        for buffer in operation.writes:
            writer[buffer.owner], readers[buffer.owner] = access, []
        clock[where] = access.position
        clocks[where] = clock
        if operation.ended is not None:
            ends[operation.ended] = clock
    return found


def merged(*clocks: Clock) -> Clock:
    names = {name for clock in clocks for name in clock}
    return {name: max(clock.get(name, 0) for clock in clocks) for name in names}
