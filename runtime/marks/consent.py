"""A list of references whose persons agreed to be animated, as a policy.

The list is a file with one JSON object per line. It holds no picture: a reference is known by the digest of
its pixels and by a perceptual hash, which a copy in another size or format has too.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...atomic import write_text
from ...engines.files import read_bytes
from ...errors import ConfigError, InputError, Refused
from ...locks import locked
from ...text import escaped, quoted
from ..media.picture import Frame
from .policy import picture_digest

MAX_BYTES = 64_000_000  # of a list
MAX_TEXT = 200  # characters of who agreed
SIDE = 16  # of the perceptual hash: 256 bits
NEAR = 12  # bits in which the hashes of copies may differ
SHOWN = 12  # digits of a digest in messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One reference and who agreed. Days are ISO dates; a consent without an end has an empty `until`."""

    digest: str
    likeness: str  # the perceptual hash, in hexadecimal
    who: str
    given: str
    until: str = ""
    revoked: str = ""

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line of a list. Raises ValueError."""
        document = json.loads(line)
        names = cls.__dataclass_fields__.keys()
        if not isinstance(document, dict) or not document.keys() <= names:
            raise ValueError(f"expected an object with {', '.join(names)}")
        if not all(isinstance(value, str) and len(value) <= MAX_TEXT for value in document.values()):
            raise ValueError(f"expected texts of at most {MAX_TEXT} characters")
        consent = cls(**document)
        int(consent.digest, 16), int(consent.likeness, 16)
        for day in filter(None, (consent.given, consent.until, consent.revoked)):
            datetime.date.fromisoformat(day)
        return consent

    def holds(self, day: str) -> bool:
        return self.given <= day and (not self.until or day <= self.until) and not self.revoked

    def is_of(self, digest: str, likeness: str) -> bool:
        return digest == self.digest or distance(likeness, self.likeness) <= NEAR


class ConsentList:
    """The list in a file. It is read for every request, so that a revocation takes effect at once."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def check_reference(self, picture: Frame, _request: Mapping[str, Any]) -> None:
        """Raise Refused unless a consent for this picture, uint8 (height, width, 3), holds today."""
        digest, likeness, day = picture_digest(picture), likeness_of(picture), today()
        if not any(each.holds(day) for each in self.read() if each.is_of(digest, likeness)):
            raise Refused(
                f"reference {digest[:SHOWN]}: expected one with a consent that holds today, found none; add "
                "it with: animate-rt consent add LIST IMAGE --who NAME"
            )

    def check_frames(self, _frames: Sequence[Frame]) -> None:
        """Accept all frames: whoever agreed to the reference agreed to its clips."""

    def read(self) -> list[Consent]:
        """All consents, in order; none if there is no file. Raises InputError for a line that is none."""
        try:
            lines = read_bytes(self.path, MAX_BYTES).decode().splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise InputError(f"{escaped(str(self.path))}: cannot read this list: {reason}") from error
        consents = []
        for number, line in enumerate(lines, start=1):
            try:
                consents.append(Consent.parse(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise InputError(
                    f"{escaped(str(self.path))}:{number}: expected a consent, found {quoted(line, 60)}"
                ) from error
        return consents

    def add(self, picture: Frame, who: str, until: str = "") -> Consent:
        """Add a consent that begins today. Raises ConfigError, OutputError."""
        if not who.strip() or len(who) > MAX_TEXT:
            raise ConfigError(
                f"--who: expected who agreed, in up to {MAX_TEXT} characters, found {quoted(who)}"
            )
        consent = Consent(
            digest=picture_digest(picture),
            likeness=likeness_of(picture),
            who=who,
            given=today(),
            until=until and day_of(until),
        )
        with self.changing():
            self.write([*self.read(), consent])
        return consent

    def revoke(self, picture: Frame) -> list[Consent]:
        """End every consent for a picture or its copies today; returns those that ended."""
        digest, likeness = picture_digest(picture), likeness_of(picture)
        with self.changing():
            consents, ended = self.read(), []
            for index, consent in enumerate(consents):
                if not consent.revoked and consent.is_of(digest, likeness):
                    consents[index] = replace(consent, revoked=today())
                    ended.append(consents[index])
            if ended:
                self.write(consents)
        return ended

    def changing(self) -> AbstractContextManager[None]:
        """Held while the list is changed: two processes may do so at the same time."""
        return locked(self.path.with_name(f".{self.path.name}.lock"))

    def write(self, consents: Sequence[Consent]) -> None:
        lines = (json.dumps(asdict(consent), ensure_ascii=True) for consent in consents)
        write_text(self.path, "".join(f"{line}\n" for line in lines))


def likeness_of(picture: Frame) -> str:
    """A perceptual hash in hexadecimal: whether brightness rises from each of 17 x 16 cells to the next."""
    from PIL import Image

    grey = Image.fromarray(picture).convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey, np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def distance(one: str, other: str) -> int:
    """The number of bits in which two hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def day_of(text: str) -> str:
    """Parse a day like 2027-06-30. Raises ConfigError."""
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ConfigError(f"--until: expected a day like 2027-06-30, found {quoted(text)}") from error
