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

from ...engines.device import Array, Buffer, Device, Event, Stream
from ...errors import Rejected


class Operation(NamedTuple):
    """What an observer is told of an operation. `stream` is None where the host itself reads or writes."""

    name: str
    stream: Stream | None
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    waits: tuple[Event, ...]  # before it begins
    began: Event | None
    ended: Event | None


# Called with the issuer held, from any thread that issues: it may look and note, and must not call back.
Observer = Callable[[Operation], None]


class StreamScheduler:
    """Issues operations on one device. Used in a `with`, which keeps other threads from issuing in between:
    several operations on buffers that clips share belong together."""

    def __init__(self, device: Device, observe: Observer | None = None):
        self.device = device
        self.observe = observe
        self.closed = False
        self.lock = Lock()

    def __enter__(self) -> None:
        self.lock.acquire()
        try:
            self.check_open()
            self.device.activate()
        except BaseException:
            self.lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def check_open(self) -> None:
        """Raise Rejected once the animator has been closed."""
        if self.closed:
            raise Rejected("animator: expected an open one, found it closed; load the bundle again")

    def issue(
        self,
        name: str,
        stream: Stream,
        work: Callable[[], None],
        *,
        reads: Iterable[Buffer] = (),
        writes: Iterable[Buffer] = (),
    ) -> Event:
        """Let `work` put one operation on the stream; the event is its end.

        What it changes rather than fills belongs to both `reads` and `writes`. Called with the issuer held.
        """
        reads, writes = tuple(reads), tuple(writes)
        # Rows that are written leave the others as they are: no good either, if those failed.
        kept = [buffer for buffer in writes if buffer.owner is not buffer]
        waits: dict[Event, bool] = {}  # whether the operation is no good without what it waits for
        for buffer in (*reads, *kept):
            if buffer.owner.writer is not None:
                waits[buffer.owner.writer] = True
        for buffer in writes:
            for event in users(buffer):
                waits.setdefault(event, False)
        for event, needs in waits.items():
            stream.wait(event, needs=needs)
        began = stream.mark() if self.observe else None
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
        """What a host buffer holds, once it is there; a copy. Raises the error of what was to write it."""
        event = buffer.owner.writer
        if event is not None:
            event.synchronize()  # the caller looks at it next
        with self:  # memory is there as long as the animator is open
            assert buffer.array is not None
            content = buffer.array.copy()
            self._tell_host((buffer,), (), (event,) if event else ())
        return content

    def host_writes(self, buffer: Buffer, content: Array) -> None:
        """Fill a host buffer, once nothing uses it any more."""
        events = tuple(users(buffer))
        for event in events:
            settle(event)
        with self:
            assert buffer.array is not None
            buffer.array[...] = content
            forget_content(buffer)
            self._tell_host((), (buffer,), events)

    def _tell_host(
        self, reads: tuple[Buffer, ...], writes: tuple[Buffer, ...], waits: tuple[Event, ...]
    ) -> None:
        if self.observe:
            self.observe(Operation("host", None, reads, writes, waits, None, None))


def users(buffer: Buffer) -> Iterable[Event]:
    """The last write of a buffer and all reads since."""
    owner = buffer.owner
    return (*([owner.writer] if owner.writer is not None else []), *owner.readers.values())


def forget_content(buffer: Buffer) -> None:
    """What comes next fills the whole buffer: it waits for what was written there, and does not need it."""
    owner = buffer.owner
    if owner.writer is not None:
        owner.readers.setdefault(owner.writer.stream, owner.writer)  # a reader there came after it
        owner.writer = None


def settle(event: Event) -> None:
    """Wait for an event of work that no longer matters, whether it failed or not."""
    with suppress(Exception):  # raised where the work's result is asked for
        event.synchronize()
