"""What a watermark is: 32 bits hidden in every frame of a clip, and found again in a file.

`Pattern` (pattern.py) is the one that files get. Another encoder and its detector can take its place: see
`RivaGAN` (rivagan.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Protocol, Self

from ..media.picture import Frame

PRODUCT_BITS, JOB_BITS = 16, 16
PRODUCT = int.from_bytes(hashlib.sha256(b"animate-rt").digest()[:2])
THRESHOLD = 1e-6  # a file counts as marked if an unmarked one looks like this less often
SURE = 0.999  # bits are stated if all are right with at least this probability


@dataclass(frozen=True, slots=True)
class Payload:
    """The 32 bits of a watermark: which product made the file, and which job. Both are from 0 to 65,535."""

    job: int
    product: int = PRODUCT

    @classmethod
    def of(cls, digest: str) -> Self:
        """The payload of the job whose request has this digest. Different jobs may share a number."""
        return cls(int.from_bytes(hashlib.sha256(digest.encode()).digest()[:2]))

    @classmethod
    def from_bits(cls, bits: Sequence[int]) -> Self:
        """The payload of 32 bits, 0 or 1, most significant first: product, then job."""
        number = int("".join(map(str, bits)), 2)
        return cls(job=number & 0xFFFF, product=number >> JOB_BITS)

    @property
    def bits(self) -> tuple[int, ...]:
        return tuple(map(int, f"{self.product:016b}{self.job:016b}"))

    def __str__(self) -> str:
        return f"{self.product:04x}{self.job:04x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a watermark's detector read in some frames.

    right: how many of the 16 product bits are ours. false_positive_rate: an upper bound of how often frames
    without this watermark would look as marked as these do. bits_confidence: the probability that all 32 bits
    of `payload` are right, if the frames are marked.
    """

    watermark: str  # its name
    payload: Payload
    right: int
    false_positive_rate: float
    bits_confidence: float

    @property
    def found(self) -> bool:
        return self.false_positive_rate <= THRESHOLD

    @property
    def confidence(self) -> float:
        return 1 - self.false_positive_rate

    @property
    def certain(self) -> bool:
        """Whether the bits can be relied on. A mark may be found when some of its bits are lost."""
        return self.found and self.bits_confidence >= SURE


class Watermark(Protocol):
    """An encoder of 32 bits and its detector."""

    name: str  # with its version: what it is recorded as

    def marker(self, width: int, height: int, payload: Payload) -> Callable[[Frame], Frame]:
        """A function that marks frames, uint8 (height, width, 3), and returns new ones.

        The same frame and payload give the same bytes.
        """

    def read(self, frames: Sequence[Frame]) -> Reading:
        """Read the mark that all these frames have, uint8 (height, width, 3); at least one frame."""


def right_bits(payload: Payload) -> int:
    """How many of the product's bits are ours."""
    return PRODUCT_BITS - (payload.product ^ PRODUCT).bit_count()


def chance(right: int) -> float:
    """The probability that at least so many of 16 fair coins show the product's bits."""
    ways: int = sum(comb(PRODUCT_BITS, k) for k in range(right, PRODUCT_BITS + 1))
    return ways / float(1 << PRODUCT_BITS)
