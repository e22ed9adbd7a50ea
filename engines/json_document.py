"""JSON documents read into the frozen dataclasses they were written from, or refused."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from ..errors import ConfigError


def from_json(kind: Any, value: Any, where: str) -> Any:
    """`value`, as json.loads made it, as the type `kind`: dataclasses, dicts, tuples, literals and scalars.

    Raises ConfigError where a field is missing, unknown or of the wrong type; `where` begins its message.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = typing.get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() - fields.keys():
            raise ConfigError(f"{where}: expected the fields {', '.join(fields)}, found {value!r}")
        required = {
            f.name for f in dataclasses.fields(kind) if f.default is f.default_factory
        }  # both MISSING
        if required - value.keys():
            raise ConfigError(f"{where}: missing {', '.join(sorted(required - value.keys()))}")
        parts = {name: from_json(fields[name], part, f"{where}.{name}") for name, part in value.items()}
        return kind(**parts)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(value, dict):
        return {key: from_json(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    if origin is tuple and isinstance(value, list):
        inner = arguments[0]
        return tuple(from_json(inner, part, f"{where}[{i}]") for i, part in enumerate(value))
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where}: expected one of {', '.join(map(str, arguments))}, found {value!r}")
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is kind:
        return value
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {value!r}")
