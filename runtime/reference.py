"""The reference cache: what the denoising UNet reads of a reference image, kept between clips."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from ..engines.engine import Buffer

Reference = dict[str, Buffer]  # key_i, value_i, cross_i of every spatial attention block


class ReferenceCache:
    """Least recently used references go first, as soon as all together exceed the budget; the newest stays.

    Safe to use from several threads: the same image is computed once however many ask for it.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.references: OrderedDict[bytes, Reference] = OrderedDict()
        self.lock = Lock()

    def get(self, image_key: bytes, compute: Callable[[], Reference]) -> Reference:
        with self.lock:
            if image_key not in self.references:
                self.references[image_key] = compute()
            self.references.move_to_end(image_key)
            while self.num_bytes > self.max_bytes and len(self.references) > 1:
                self.references.popitem(last=False)
            return self.references[image_key]

    def clear(self) -> None:
        with self.lock:
            self.references.clear()

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for reference in self.references.values() for buffer in reference.values())


def image_key(*images: Buffer) -> bytes:
    """Content of the pictures a reference is computed from."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.digest()
