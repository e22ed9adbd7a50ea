"""A proof that no timing can change a clip: of two operations on a buffer, one writing, one comes first.

Knows nothing of how the runtime decides what waits for what. Order comes from three things alone: operations
of one stream follow each other, an operation follows the events it waits for, and whatever the host issues
follows what it has waited for and done itself. Its threads count as one: they hand each other buffers under
a lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from animate_rt.engines.device import Event, Stream
from animate_rt.runtime.operations import Operation

Place = Stream | None  # None is the host
Clock = dict[Place, int]  # how many operations of each stream, and of the host, have come before


class Access(NamedTuple):
    name: str
    where: Place
    position: int


def hazards(log: Sequence[Operation]) -> list[str]:
    """Pairs of operations that touch one buffer without an order; empty where all is well."""
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
