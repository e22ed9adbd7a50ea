"""Operations: work put on a stream together with what it reads and writes, in an order that is always safe.

Whoever issues an operation names its buffers. From these follow the events its stream has to wait for: of the
last operation that wrote what it reads, and of all that still use what it writes. Nothing else orders the
streams, so no order of issuing and no delay can change a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import NamedTuple

from ..engines.device import Array, Buffer, Device, Event, Stream
from ..errors import Rejected


class Operation(NamedTuple):
    """What an observer is told of an operation. `stream` is None where the host itself reads or writes."""

    name: str
    stream: Stream | None
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    waits: tuple[Event, ...]  # before it begins
    began: Event | None
    ended: Event | None


Observer = Callable[[Operation], None]


class Issuer:
    """Issues operations on one device. Used in a `with`, which keeps other threads from issuing in between:
    several operations on buffers that clips share belong together."""

    def __init__(self, device: Device, observe: Observer | None = None):
        self.device = device
        self.observe = observe
        self.closed = False
        self.lock = Lock()

    def __enter__(self) -> None:
        self.lock.acquire()
        if self.closed:
            self.lock.release()
            raise Rejected("animator: expected an open one, found it closed; load the bundle again")
        self.device.activate()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def issue(
        self,
        name: str,
        stream: Stream,
        work: Callable[[], None],
        *,
        reads: Iterable[Buffer] = (),
        writes: Iterable[Buffer] = (),
    ) -> Event:
        """Let `work` put one operation on the stream; the event is its end."""
        reads, writes = tuple(reads), tuple(writes)
        waits: dict[Event, bool] = {}  # whether the operation is no good without what it waits for
        for buffer in reads:
            if buffer.owner.writer is not None:
                waits[buffer.owner.writer] = True
        for buffer in writes:
            for event in users(buffer):
                waits.setdefault(event, False)
        for event, needs in waits.items():
            stream.wait(event, needs=needs)
        began = stream.record() if self.observe else None
        try:
            work()
        finally:  # part of it may be on the stream already
            ended = stream.record()
            for buffer in reads:
                buffer.owner.readers[stream] = ended
            for buffer in writes:
                buffer.owner.writer = ended
                buffer.owner.readers.clear()
            if self.observe:
                self.observe(Operation(name, stream, reads, writes, tuple(waits), began, ended))
        return ended

    def host_reads(self, buffer: Buffer) -> Array:
        """The content of a host buffer, once it is there. Raises the error of what was to write it."""
        event = buffer.owner.writer
        if event is not None:
            event.synchronize()  # the caller looks at it next
        if self.observe:
            self.observe(Operation("host", None, (buffer,), (), (event,) if event else (), None, None))
        assert buffer.array is not None
        return buffer.array

    def host_writes(self, buffer: Buffer, content: Array) -> None:
        """Fill a host buffer, once nothing uses it any more."""
        events = tuple(users(buffer))
        for event in events:
            settle(event)
        assert buffer.array is not None
        buffer.array[...] = content
        if self.observe:
            self.observe(Operation("host", None, (), (buffer,), events, None, None))


def users(buffer: Buffer) -> Iterable[Event]:
    """The last write of a buffer and all reads since."""
    owner = buffer.owner
    return (*([owner.writer] if owner.writer is not None else []), *owner.readers.values())


def settle(event: Event) -> None:
    """Wait for an event of work that no longer matters, whether it failed or not."""
    with suppress(Exception):  # raised where the work's result is asked for
        event.synchronize()
