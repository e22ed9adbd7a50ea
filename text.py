"""Text from outside: names, values and messages of libraries, made safe for a line of a terminal or log."""

from __future__ import annotations

import json
import re
from typing import Any

LIMIT = 120  # characters of a quoted value
LINE_LIMIT = 2000  # characters of a line
PLAIN = re.compile(r"[A-Za-z0-9_./+-]{1,120}")


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """The text on one line: white space folded, control characters and lone surrogates escaped.

    The middle of a text of more than `limit` characters is left out.
    """
    return bounded(" ".join(shortened(text, 4 * limit).split()), limit)


def bounded(text: str, limit: int = LINE_LIMIT) -> str:
    """The text, escaped, with spaces as they are; without the middle if it is long."""
    return shortened(escaped(shortened(text, limit)), limit)


def shortened(text: str, limit: int) -> str:
    """The text, or its start and end if it has more than `limit` characters."""
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[: limit - 3 - half]}...{text[-half:]}"


def escaped(text: str) -> str:
    """The text with control characters and lone surrogates escaped, and spaces as they are."""
    return text if text.isprintable() else "".join(map(printable, text))


def quoted(value: Any, limit: int = LIMIT) -> str:
    """A value for an error message: text as it is, anything else as repr would show it, safe and bounded."""
    text = value if isinstance(value, str) else shortened_repr(value)
    text = escaped(" ".join(text[: 4 * limit].split()))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def field(text: str) -> str:
    """A value for a line of NAME=VALUE: plain text as it is, anything else as a JSON string in ASCII."""
    return text if PLAIN.fullmatch(text) else json.dumps(shortened(text, LIMIT)).replace("\x7f", "\\u007f")


def message_of(error: BaseException) -> str:
    """The message of an exception. Some libraries raise exceptions whose message cannot be decoded."""
    try:
        return str(error)
    except Exception:
        return "its message cannot be read"


def encodable(value: Any) -> Any:
    """The value, with lone surrogates of a text escaped, which UTF-8 and many parsers of JSON refuse."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def shortened_repr(value: Any) -> str:
    """`repr`, without building all of it for a value of any size or depth."""
    from reprlib import Repr

    short = Repr()
    short.maxstring = short.maxother = short.maxlong = LIMIT
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to spell integers of thousands of digits
        return f"{type(value).__name__} too long to show"


def printable(character: str) -> str:
    """The character, or its escape if it would not show or would control the terminal."""
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()
