"""The reference cache: what the UNet reads of a reference image, kept on the device between clips."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from ..engines.device import Array, Buffer

Reference = dict[str, Buffer]  # key_i, value_i, cross_i of every spatial attention block


@dataclass(slots=True)
class Entry:
    """A reference, computed or on its way, and how many clips are using it."""

    future: Future[Reference] = field(default_factory=Future)
    borrowers: int = 0


class ReferenceCache:
    """Least recently used references go first, as soon as all together exceed the budget; the newest stays.

    Safe to use from several threads: the same image is computed once however many ask for it, and who asks
    for another one does not wait. `release` is given each reference that is neither kept nor in use any more.
    """

    def __init__(self, max_bytes: int, release: Callable[[Reference], None]):
        self.max_bytes = max_bytes
        self.release = release
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.lock = Lock()

    @contextmanager
    def borrow(self, image_key: bytes, compute: Callable[[], Reference]) -> Iterator[Reference]:
        """The reference of that image, computed here unless it is there or on its way in another thread."""
        with self.lock:
            ours = image_key not in self.entries
            entry = self.entries.setdefault(image_key, Entry())
            self.entries.move_to_end(image_key)
            entry.borrowers += 1
        try:
            if ours:
                self._compute(image_key, entry, compute)
            yield entry.future.result()
        finally:
            with self.lock:
                entry.borrowers -= 1
                kept = self.entries.get(image_key) is entry
            if not kept:
                self._drop(entry)

    def clear(self) -> None:
        self._trim(max_bytes=0, keep=0)

    @property
    def num_bytes(self) -> int:
        """Of all references that are complete."""
        return sum(size(entry) for entry in self.entries.values())

    def _compute(self, image_key: bytes, entry: Entry, compute: Callable[[], Reference]) -> None:
        try:
            entry.future.set_result(compute())
        except BaseException as error:
            with self.lock:
                if self.entries.get(image_key) is entry:
                    del self.entries[image_key]
            entry.future.set_exception(error)
        self._trim(self.max_bytes, keep=1)

    def _trim(self, max_bytes: int, keep: int) -> None:
        dropped = []
        with self.lock:
            while len(self.entries) > keep and (self.num_bytes > max_bytes or not keep):
                dropped.append(self.entries.popitem(last=False)[1])
        for entry in dropped:
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        """Release an entry that is out of the cache, unless a clip still has it."""
        with self.lock:
            unused = entry.borrowers == 0 and size(entry) > 0
            if unused:
                reference, entry.future = entry.future.result(), Future()  # so that it is released once
        if unused:
            self.release(reference)


def size(entry: Entry) -> int:
    """Bytes of a reference that is complete."""
    if not entry.future.done() or entry.future.exception() is not None:
        return 0
    return sum(buffer.num_bytes for buffer in entry.future.result().values())


def image_key(*images: Array) -> bytes:
    """Content of the pictures a reference is computed from."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.digest()
