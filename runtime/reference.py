"""The reference cache: what the denoising UNet reads of a reference image, kept between clips."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock

from ..engines.engine import Buffer

Reference = dict[str, Buffer]  # key_i, value_i, cross_i of every spatial attention block


class ReferenceCache:
    """Least recently used references go first, as soon as all together exceed the budget; the newest stays.

    Safe to use from several threads: the same image is computed once however many ask for it, and who asks
    for another one does not wait.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.references: OrderedDict[bytes, Future[Reference]] = OrderedDict()
        self.lock = Lock()

    def get(self, image_key: bytes, compute: Callable[[], Reference]) -> Reference:
        """The reference of that image, computed here unless it is there or on its way in another thread."""
        with self.lock:
            ours = image_key not in self.references
            future = self.references.setdefault(image_key, Future())
            self.references.move_to_end(image_key)
        if ours:
            try:
                future.set_result(compute())
            except BaseException as error:
                with self.lock:
                    self.references.pop(image_key, None)
                future.set_exception(error)
            self._trim()
        return future.result()

    def clear(self) -> None:
        with self.lock:
            self.references.clear()

    @property
    def num_bytes(self) -> int:
        """Of all references that are complete."""
        complete = (future.result() for future in self.references.values() if future.done())
        return sum(buffer.nbytes for reference in complete for buffer in reference.values())

    def _trim(self) -> None:
        with self.lock:
            while self.num_bytes > self.max_bytes and len(self.references) > 1:
                self.references.popitem(last=False)


def image_key(*images: Buffer) -> bytes:
    """Content of the pictures a reference is computed from."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.digest()
