"""The reference cache: the UNet's inputs from a reference image, kept on the device between clips."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock

from ...engines import contract
from ...engines.device import Array, Buffer, Event
from ..streams.pool import Lease
from ..streams.session import WAIT_S, Session
from .clip import Clip

Reference = dict[str, Buffer]  # key_i, value_i, cross_i of every spatial attention block


@dataclass(slots=True)
class Entry:
    """A reference that is computed or being computed, and the number of clips that use it."""

    future: Future[Reference] = field(default_factory=Future)
    borrowers: int = 0


class ReferenceCache:
    """A least recently used (LRU) cache, limited to `max_bytes`; the newest reference always stays.

    Safe to use from several threads, and from a garbage collector that closes a clip in the middle of a call.
    An image that several threads ask for is computed once; threads that ask for other images do not wait.
    `release` is called with each reference that is neither cached nor in use any more.
    """

    def __init__(self, max_bytes: int, release: Callable[[Reference], None]):
        self.max_bytes = max_bytes
        self.release = release
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.lock = RLock()

    @contextmanager
    def borrow(
        self, image_key: bytes, compute: Callable[[], Reference], waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Reference]:
        """Yield the reference of an image; compute it unless it is cached or being computed elsewhere.

        `waiting` is called again and again while another thread computes it, and may raise to give up.
        """
        reference = None
        while reference is None:
            entry, is_new = self._enter(image_key)
            try:
                if is_new:
                    self._compute(image_key, entry, compute)
                while not entry.future.done():
                    try:  # not `wait`, for which a cancelled future is never done
                        entry.future.exception(WAIT_S)
                    except TimeoutError:
                        waiting()
                reference = entry.future.result()
            except CancelledError:  # the thread that was computing it was interrupted: try again
                continue
            finally:
                if reference is None:
                    self._leave(image_key, entry)
        try:
            yield reference
        finally:
            self._leave(image_key, entry)

    def clear(self) -> None:
        self._forget(lambda _entry: True)

    def drop_unused(self) -> None:
        """Forget the references that no clip uses, to make room on the device."""
        self._forget(lambda entry: entry.borrowers == 0)

    def _forget(self, chosen: Callable[[Entry], bool]) -> None:
        with self.lock:
            keys = [image_key for image_key, entry in self.entries.items() if chosen(entry)]
            dropped = [self.entries.pop(image_key) for image_key in keys]
        for entry in dropped:
            self._drop(entry)

    @property
    def num_bytes(self) -> int:
        """Bytes of all complete references."""
        return sum(size(entry) for entry in self.entries.values())

    def _enter(self, image_key: bytes) -> tuple[Entry, bool]:
        with self.lock:
            is_new = image_key not in self.entries
            entry = self.entries.setdefault(image_key, Entry())
            self.entries.move_to_end(image_key)
            entry.borrowers += 1
        return entry, is_new

    def _leave(self, image_key: bytes, entry: Entry) -> None:
        with self.lock:
            entry.borrowers -= 1
            cached = self.entries.get(image_key) is entry
        if not cached:
            self._drop(entry)

    def _compute(self, image_key: bytes, entry: Entry, compute: Callable[[], Reference]) -> None:
        try:
            entry.future.set_result(compute())
        except BaseException as error:
            with self.lock:
                if self.entries.get(image_key) is entry:
                    del self.entries[image_key]
            if isinstance(error, Exception):
                entry.future.set_exception(error)
            else:  # such as KeyboardInterrupt: it ends this thread, and waiting threads try again
                entry.future.cancel()
            raise
        self._trim()

    def _trim(self) -> None:
        dropped = []
        with self.lock:
            for image_key, entry in list(self.entries.items())[:-1]:
                if self.num_bytes > self.max_bytes and size(entry) > 0:
                    dropped.append(self.entries.pop(image_key))
        for entry in dropped:
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        """Release an entry that has left the cache, unless a clip still uses it."""
        with self.lock:
            unused = entry.borrowers == 0 and size(entry) > 0
            if unused:
                reference, entry.future = entry.future.result(), Future()  # so that it is released only once
        if unused:
            self.release(reference)


def size(entry: Entry) -> int:
    """Bytes of a reference; 0 unless it is complete."""
    if not entry.future.done() or entry.future.cancelled() or entry.future.exception() is not None:
        return 0
    return sum(buffer.num_bytes for buffer in entry.future.result().values())


def encode_reference(session: Session, clip: Clip) -> Reference:
    """Compute a clip's reference, in buffers of the pool. Raises DeviceError."""
    lease = Lease(session.pool)
    specs = clip.manifest.graphs[contract.REFERENCE_NET].outputs
    try:
        reference = dict(zip((spec.name for spec in specs), lease.take_all(specs), strict=True))
        with session.encoders(clip.check_cancelled):
            # Raises if it failed: a failed reference must not be cached.
            run_encoders(session, clip, reference).synchronize()
    except BaseException:
        lease.close()
        raise
    return reference


def run_encoders(session: Session, clip: Clip, reference: Reference) -> Event:
    """Issue the engines that fill a reference. Returns the event of their end."""
    prepare = session.prepare
    with (
        prepare.staged("uint8", clip.embedded_image) as embedded,
        prepare.staged("uint8", clip.image) as image,
        session.scheduler,
    ):
        encoder, vae, net = (session.bound(prepare, graph) for graph in contract.REFERENCE)
        encoder.run({"image": embedded})
        vae.run({"image": image})
        inputs = {"latents": vae["latents"], "image_embeds": encoder["image_embeds"]}
        return net.run(inputs, bound=reference)


def image_key(*images: Array) -> bytes:
    """Return the SHA-256 of the pictures that a reference is computed from."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.digest()
