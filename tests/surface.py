"""The surface of a module: its public names, their members, and the parameters of those that can be called.

    python -m animate_rt.tests.surface MODULE NAME...

prints that of a package in this environment, as JSON. A surface is `{name: {member: parameters}}`; a function
is the member "__call__" of its name and a constructor is "__init__". Parameters are None where they are not
known.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

Surface = dict[str, dict[str, list[str] | None]]

SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((.*)\)(?: -> .*)?$")  # as pybind11 and Cython write them


def surface(module: ModuleType, names: Iterable[str]) -> Surface:
    return {name: members(getattr(module, name)) for name in names if hasattr(module, name)}


def members(item: Any) -> dict[str, list[str] | None]:
    if not isinstance(item, type):
        return {"__call__": parameters(item)}
    found = {name: parameters(getattr(item, name)) for name in public(item)}
    return found if issubclass(item, enum.Enum) else found | {"__init__": parameters(item)}


def public(item: type) -> Iterator[str]:
    """Names that the class and its own bases define: not those of built-in classes."""
    if members := getattr(item, "__members__", None):
        yield from members
    elif not issubclass(item, enum.Enum):
        for base in item.__mro__:
            if base.__module__ != "builtins":
                yield from (name for name in vars(base) if name[0] != "_" or name == "__sub__")


def parameters(item: Any) -> list[str] | None:
    """Names of parameters, of all overloads."""
    if not callable(item):
        return None
    try:
        signature = inspect.signature(item).parameters.values()
    except (TypeError, ValueError):  # of pybind11, and constructors of Cython: in the first lines of the text
        lines = (item.__doc__ or "").strip().splitlines()
        written = [found[1] for line in lines if (found := SIGNATURE.match(line))]
        named = [name for part in written for name in re.findall(r"(\w+)\s*:", part) if name != "self"]
        return named or None
    return [one.name for one in signature if one.name != "self" and one.kind is not one.VAR_POSITIONAL]


def missing(ours: Surface, real: Surface) -> list[str]:
    """What `ours` has and `real` lacks."""
    found = []
    for name, mine in ours.items():
        if name not in real:
            found.append(name)
            continue
        for member, named in mine.items():
            if member not in real[name]:
                found.append(f"{name}.{member}")
            elif (known := real[name][member]) is not None:
                found += [f"{name}.{member}({one})" for one in named or () if one not in known]
    return found


if __name__ == "__main__":
    real = importlib.import_module(sys.argv[1])
    print(json.dumps(surface(real, sys.argv[2:])))
