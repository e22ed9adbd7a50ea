"""A list of references whose persons agreed to be animated, as a policy.

The list is a file with one JSON object per line. It holds no picture: a reference is known by the digest of
its pixels, and a copy in another size or format by the colours of 24 x 24 places.

A copy has these colours everywhere. A hash of which only most has to be right would take another person for
one: in the same pose in front of the same wall, most of the picture is the same.
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
from ...engines.files import SHA256, read_bytes
from ...errors import ConfigError, InputError, Refused
from ...locks import locked
from ...text import escaped, quoted
from ..media.picture import Frame
from .policy import picture_digest

MAX_BYTES = 64_000_000  # of a list
MAX_TEXT = 200  # characters of who agreed
SIDE = 24  # places along each side of a picture, of which the colours are kept
NEAR = 8  # levels of 255 by which any of these colours may differ in a copy
SHOWN = 12  # digits of a digest in messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One reference and who agreed. Days are ISO dates; a consent without an end has an empty `until`."""

    digest: str
    likeness: str  # see `likeness_of`
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
        if not all(isinstance(value, str) for value in document.values()):
            raise ValueError("expected texts")
        consent = cls(**document)
        if not SHA256.fullmatch(consent.digest) or len(consent.who) > MAX_TEXT:
            raise ValueError(f"expected a SHA-256, and who agreed in at most {MAX_TEXT} characters")
        if len(bytes.fromhex(consent.likeness)) != 3 * SIDE * SIDE:
            raise ValueError(f"expected the colours of {SIDE} x {SIDE} places")
        for day in (consent.given, *filter(None, (consent.until, consent.revoked))):
            if datetime.date.fromisoformat(day).isoformat() != day:  # days are compared as texts
                raise ValueError("expected a day like 2027-06-30")
        return consent

    def holds(self, day: str) -> bool:
        return self.given <= day and (not self.until or day <= self.until) and not self.revoked

    def is_of(self, digest: str, likeness: str) -> bool:
        return digest == self.digest or difference(likeness, self.likeness) <= NEAR


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
        if until and consent.until < consent.given:
            raise ConfigError(f"--until: expected today or a later day, found {quoted(until)}")
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
    """The colours of 24 x 24 places of a picture, uint8 (height, width, 3), in hexadecimal.

    Each is a mean, in which the middle of the place weighs most: the edges of a copy are a little softer or
    harder than those of its original, which hardly changes such a mean.
    """
    from PIL import Image

    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes().hex()


def difference(one: str, other: str) -> int:
    """The most by which a colour of one likeness differs from that of the other, in levels of 255."""
    colours = [np.frombuffer(bytes.fromhex(likeness), np.uint8).astype(int) for likeness in (one, other)]
    return int(np.abs(colours[0] - colours[1]).max())


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def day_of(text: str) -> str:
    """Parse a day like 2027-06-30. Raises ConfigError."""
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ConfigError(f"--until: expected a day like 2027-06-30, found {quoted(text)}") from error
