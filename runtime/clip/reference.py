"""The reference cache: what the UNet reads of a reference image, kept on the device between clips."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock

from ...engines import contract
from ...engines.device import Array, Buffer
from ..streams.pool import Lease
from ..streams.session import Session
from .clip import Clip

Reference = dict[str, Buffer]  # key_i, value_i, cross_i of every spatial attention block


@dataclass(slots=True)
class Entry:
    """A reference, computed or on its way, and how many clips are using it."""

    future: Future[Reference] = field(default_factory=Future)
    borrowers: int = 0


class ReferenceCache:
    """Least recently used references go first, as soon as all together exceed the budget; the newest stays.

    Safe to use from several threads, and from a garbage collector that closes a clip in the middle of it: the
    same image is computed once however many ask for it, and who asks for another one does not wait. `release`
    is given each reference that is neither kept nor in use any more.
    """

    def __init__(self, max_bytes: int, release: Callable[[Reference], None]):
        self.max_bytes = max_bytes
        self.release = release
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.lock = RLock()

    @contextmanager
    def borrow(self, image_key: bytes, compute: Callable[[], Reference]) -> Iterator[Reference]:
        """The reference of that image, computed here unless it is there or on its way in another thread."""
        reference = None
        while reference is None:
            entry, ours = self._enter(image_key)
            try:
                if ours:
                    self._compute(image_key, entry, compute)
                reference = entry.future.result()
            except CancelledError:  # who was computing it was interrupted: it is anybody's again
                continue
            finally:
                if reference is None:
                    self._leave(image_key, entry)
        try:
            yield reference
        finally:
            self._leave(image_key, entry)

    def clear(self) -> None:
        with self.lock:
            dropped = list(self.entries.values())
            self.entries.clear()
        for entry in dropped:
            self._drop(entry)

    @property
    def num_bytes(self) -> int:
        """Of all references that are complete."""
        return sum(size(entry) for entry in self.entries.values())

    def _enter(self, image_key: bytes) -> tuple[Entry, bool]:
        with self.lock:
            ours = image_key not in self.entries
            entry = self.entries.setdefault(image_key, Entry())
            self.entries.move_to_end(image_key)
            entry.borrowers += 1
        return entry, ours

    def _leave(self, image_key: bytes, entry: Entry) -> None:
        with self.lock:
            entry.borrowers -= 1
            kept = self.entries.get(image_key) is entry
        if not kept:
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
            else:  # this thread is to end, not those who wait
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
        """Release an entry that is out of the cache, unless a clip still has it."""
        with self.lock:
            unused = entry.borrowers == 0 and size(entry) > 0
            if unused:
                reference, entry.future = entry.future.result(), Future()  # so that it is released once
        if unused:
            self.release(reference)


def size(entry: Entry) -> int:
    """Bytes of a reference that is complete."""
    if not entry.future.done() or entry.future.cancelled() or entry.future.exception() is not None:
        return 0
    return sum(buffer.num_bytes for buffer in entry.future.result().values())


def encode_reference(session: Session, clip: Clip) -> Reference:
    """Compute a clip's reference, in buffers of the pool."""
    prepare, lease = session.prepare, Lease(session.pool)
    specs = clip.manifest.graphs[contract.REFERENCE_NET].outputs
    try:
        reference = dict(zip((spec.name for spec in specs), lease.take_all(specs), strict=True))
        with (
            prepare.staged("uint8", clip.embedded_image) as embedded,
            prepare.staged("uint8", clip.image) as image,
            session.scheduler,
        ):
            encoder, vae, net = (
                session.bound(prepare, graph)
                for graph in (contract.IMAGE_ENCODER, contract.VAE_ENCODER, contract.REFERENCE_NET)
            )
            encoder.run({"image": embedded})
            vae.run({"image": image})
            found = {"latents": vae["latents"], "image_embeds": encoder["image_embeds"]}
            done = net.run(found, bound=reference)
        done.synchronize()  # a reference that failed must not be kept
    except BaseException:
        lease.close()
        raise
    return reference


def image_key(*images: Array) -> bytes:
    """Content of the pictures a reference is computed from."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.digest()
