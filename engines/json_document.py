"""Conversion of JSON documents to the frozen dataclasses they were written from, with type checks."""

from __future__ import annotations

import dataclasses
import typing
from functools import cache
from math import isfinite
from typing import Any, Literal

from ..errors import ConfigError
from ..text import quoted

fields_of = cache(typing.get_type_hints)
MAX_KEY = 40  # characters of a key in an error message


def from_json(kind: Any, value: Any, where: str) -> Any:
    """Convert `value`, as returned by json.loads, to `kind`: a dataclass, dict, tuple, literal or scalar.

    Raises ConfigError if a field is missing, unknown or of the wrong type, or if a number is not finite; the
    message begins with `where` and quotes values in bounded length.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = fields_of(kind)
        if not isinstance(value, dict) or (unknown := list(value.keys() - fields.keys())):
            found = quoted(unknown[0]) if isinstance(value, dict) else quoted(value)
            raise ConfigError(f"{where}: expected the fields {', '.join(fields)}, found {found}")
        required = {
            f.name for f in dataclasses.fields(kind) if f.default is f.default_factory
        }  # both are MISSING
        if required - value.keys():
            raise ConfigError(f"{where}: missing {', '.join(sorted(required - value.keys()))}")
        parts = {name: from_json(fields[name], part, f"{where}.{name}") for name, part in value.items()}
        return kind(**parts)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(value, dict):
        return {
            from_json(arguments[0], key, where): from_json(
                arguments[1], part, f"{where}.{quoted(key, MAX_KEY)}"
            )
            for key, part in value.items()
        }
    if origin is tuple and isinstance(value, list):
        inner = arguments[0]
        return tuple(from_json(inner, part, f"{where}[{i}]") for i, part in enumerate(value))
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where}: expected one of {', '.join(map(str, arguments))}, found {quoted(value)}")
    if kind is float and type(value) in (int, float):
        return finite(value, where)
    if type(value) is kind:
        return value
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {quoted(value)}")


def finite(value: float, where: str) -> float:
    """The number as a float. Raises ConfigError if it is infinite, not a number or too large for a float."""
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise ConfigError(f"{where}: expected a finite number, found {quoted(value)}")
    return number
