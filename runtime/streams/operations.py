"""Operations: work on a stream, together with the buffers that it reads and writes.

Each operation names its buffers. From these the scheduler derives the events that its stream has to wait for:
those of the last operation that wrote a buffer it reads, and of all operations that still use a buffer it
writes. Streams are synchronized in no other way, so neither the number of streams nor delays can change a
result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import NamedTuple

from ...engines.device import Array, Buffer, Device, Event, Stream
from ...errors import Rejected


class Operation(NamedTuple):
    """The record of an operation for an observer. `stream` is None if the host itself reads or writes."""

    name: str
    stream: Stream | None
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    waits: tuple[Event, ...]  # events that the stream waits for first
    began: Event | None
    ended: Event | None


# Called with the scheduler held, from any thread that issues operations; must not call the animator.
Observer = Callable[[Operation], None]


class StreamScheduler:
    """Issues operations on one device.

    It is held in a `with` block, which keeps other threads from issuing in between. Several operations on
    buffers that clips share, such as an engine's inputs, are issued in one block.
    """

    def __init__(self, device: Device, observe: Observer | None = None):
        self.device = device
        self.observe = observe
        self.closed = False
        self.process = os.getpid()
        self.lock = Lock()

    def __enter__(self) -> None:
        self.check_process()  # first: after a fork, nobody may be there to release the lock
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
        """Raise Rejected if the animator is closed, or belongs to another process."""
        self.check_process()
        if self.closed:
            raise Rejected("animator: expected an open one, found it closed; load the bundle again")

    def check_process(self) -> None:
        """Raise Rejected in a process that was forked after the bundle was loaded.

        Neither threads nor a GPU can be used there.
        """
        if os.getpid() != self.process:
            raise Rejected(
                "animator: expected the process that loaded it, found a fork of that process; "
                "start processes with multiprocessing's method spawn, and load the bundle in each"
            )

    def issue(
        self,
        name: str,
        stream: Stream,
        work: Callable[[], None],
        *,
        reads: Iterable[Buffer] = (),
        writes: Iterable[Buffer] = (),
    ) -> Event:
        """Issue one operation: `work` puts it on the stream. Returns the event of its end.

        A buffer that is modified, not overwritten, is in both `reads` and `writes`. Called with the scheduler
        held.
        """
        reads, writes = tuple(reads), tuple(writes)
        # A write to some rows keeps the others, so it also depends on the success of the buffer's last write.
        kept = [buffer for buffer in writes if buffer.owner is not buffer]
        waits: dict[Event, bool] = {}  # whether a failure before the event fails the operation
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
        finally:  # even if `work` failed: part of it may be on the stream
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
        """Wait for the last write of a host buffer and return a copy. Raises the error of that write."""
        event = buffer.owner.writer
        if event is not None:
            event.synchronize()
        with self:  # meanwhile the animator cannot close and free the memory
            assert buffer.array is not None
            content = buffer.array.copy()
            self._observe_host((buffer,), (), (event,) if event else ())
        return content

    def host_writes(self, buffer: Buffer, content: Array) -> None:
        """Wait until no operation uses a host buffer, and fill it."""
        events = tuple(users(buffer))
        for event in events:
            settle(event)
        with self:
            assert buffer.array is not None
            buffer.array[...] = content
            forget_content(buffer)
            self._observe_host((), (buffer,), events)

    def _observe_host(
        self, reads: tuple[Buffer, ...], writes: tuple[Buffer, ...], waits: tuple[Event, ...]
    ) -> None:
        if self.observe:
            self.observe(Operation("host", None, reads, writes, waits, None, None))


def users(buffer: Buffer) -> Iterable[Event]:
    """Return the events of a buffer's last write and of all reads since."""
    owner = buffer.owner
    return (*([owner.writer] if owner.writer is not None else []), *owner.readers.values())


def forget_content(buffer: Buffer) -> None:
    """Mark content as unneeded: the next write waits for the last one, but does not depend on its success."""
    owner = buffer.owner
    if owner.writer is not None:
        owner.readers.setdefault(owner.writer.stream, owner.writer)  # a read on the same stream came later
        owner.writer = None


def settle(event: Event) -> None:
    """Wait for an event; ignore errors, because the result is not needed."""
    with suppress(Exception):  # raised where the result is needed
        event.synchronize()
