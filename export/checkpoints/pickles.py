"""What a pickle of torch.save describes, found out without unpickling it.

A pickle is a program that may import and call anything. Here its instructions are listed by pickletools, and
only those that a state dict needs are followed: they make mappings, lists, texts, numbers, and `View`s in
place of tensors. Nothing is imported or called, whatever the file says, and what an instruction makes is no
larger than its description.
"""

from __future__ import annotations

from collections.abc import Callable
from pickletools import genops
from typing import Any, BinaryIO, NamedTuple

import torch

from ...text import quoted

LARGEST = 1 << 40  # size, step or offset in elements
LARGEST_RANK = 8
INSTRUCTIONS = 1_000_000  # of one pickle; a tensor takes about 40


class Storage(NamedTuple):
    """`numel` numbers in the file, which the container finds by their key."""

    dtype: torch.dtype
    key: str
    numel: int


class View(NamedTuple):
    """A tensor that has not been made. `offset` and `stride` count elements of the storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Unsupported(Exception):
    """Something that is not read; the message says what was found and what to do."""


def storage(dtype: Any, key: Any, numel: Any, part: list[Any]) -> Storage:
    if not (isinstance(dtype, torch.dtype) and isinstance(key, str) and part in ([], [None])):
        raise ValueError("not a storage")
    return Storage(dtype, key, checked(numel))


def view(stored: Any, offset: Any, size: Any, stride: Any, *_: Any) -> View:
    if not isinstance(stored, Storage) or len(size) != len(stride):
        raise ValueError("not a tensor")
    return View(stored, checked(offset), sizes(size), sizes(stride))


def view_of_type(
    stored: Any, offset: Any, size: Any, stride: Any, _gradient: Any, _hooks: Any, dtype: Any, *_: Any
) -> View:
    """As torch saves newer types of numbers: in a storage of bytes, with the type beside it."""
    if not isinstance(stored, Storage) or stored.dtype != torch.uint8 or not isinstance(dtype, torch.dtype):
        raise ValueError("not a tensor")
    numel, rest = divmod(stored.numel, dtype.itemsize)
    if rest:
        raise ValueError("not a whole number of elements")
    return view(Storage(dtype, stored.key, numel), offset, size, stride)


def sizes(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or len(given) > LARGEST_RANK:
        raise ValueError("not sizes")
    return tuple(map(checked, given))


def checked(number: Any) -> int:
    if type(number) is not int or not 0 <= number <= LARGEST:
        raise ValueError("not a size")
    return number


def mapping(items: Any = ()) -> dict[Any, Any]:
    """Python 2 gave a list of pairs. The list is emptied, as a pickle could copy it again and again."""
    made = {name(key): value for key, value in items}
    if items:
        items.clear()
    return made


def name(key: Any) -> Any:
    if type(key) not in (str, int, float, bool, type(None)):
        raise Unsupported(f"found a {type(key).__name__} as the name of a value in it")
    return key


def first(value: Any, *_: Any) -> Any:
    return value


# What torch.save names in the pickle of a state dict, and what stands for it here.
NAMES: dict[str, torch.dtype | Callable[..., Any]] = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch.storage UntypedStorage": torch.uint8,
    "torch float8_e4m3fn": torch.float8_e4m3fn,
    "torch float8_e5m2": torch.float8_e5m2,
    "torch._utils _rebuild_tensor_v2": view,
    "torch._utils _rebuild_tensor_v3": view_of_type,
    "torch._utils _rebuild_parameter": first,
    "torch._utils _rebuild_parameter_with_state": first,
    "collections OrderedDict": mapping,
    # Among the settings of a training run.
    "torch Size": first,
    "torch device": first,
    "torch float32": torch.float32,
    "torch float16": torch.float16,
    "torch bfloat16": torch.bfloat16,
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
)


def meaning(wanted: str) -> torch.dtype | Callable[..., Any]:
    """What stands for a name. Raises Unsupported for a name that torch.save does not use for tensors."""
    if wanted not in NAMES:
        raise Unsupported(
            f"found {quoted(wanted)} in it, which is not a plain tensor; save the state dict alone: "
            "torch.save(network.state_dict(), FILE)"
        )
    return NAMES[wanted]


def contents(pickle: BinaryIO) -> Any:
    """Return what the next pickle in a file describes: mappings, lists, tuples, texts, numbers and `View`s.

    Raises Unsupported if it describes anything else, and one of DAMAGE if it is not a whole pickle.
    """
    program = Program()
    for number, (instruction, argument, _) in enumerate(genops(pickle)):
        if instruction.name == "STOP":
            return program.stack.pop()
        if number == INSTRUCTIONS:
            raise Unsupported(
                f"found more than {INSTRUCTIONS:,} values in its pickle; save the state dict alone"
            )
        program.run(instruction.name, argument)
    raise ValueError("the pickle does not end")


# What a pickle that is not whole can raise; pickletools warns of strange escapes.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, Warning)


class Program:
    """The state of the machine that a pickle is written for: a stack and numbered values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def top(self, count: int) -> list[Any]:
        """Take the last `count` values from the stack."""
        at = len(self.stack) - count
        if not 0 <= at <= len(self.stack):
            raise IndexError("not on the stack")
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def since_mark(self) -> list[Any]:
        return self.top(len(self.stack) - self.marks.pop())

    def run(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.top(int(operation[-1]))))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "SETITEM" | "SETITEMS":
                items = self.top(2) if operation == "SETITEM" else self.since_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    stack[-1][name(key)] = value
            case "APPEND" | "APPENDS":
                items = self.top(1) if operation == "APPEND" else self.since_mark()
                stack[-1].extend(items)
            case "GLOBAL":
                stack.append(meaning(argument))
            case "STACK_GLOBAL":
                stack.append(meaning(" ".join(self.top(2))))
            case "REDUCE":
                made, arguments = self.top(2)  # `made` is of NAMES, as nothing else here can be called
                stack.append(made(*arguments))
            case "BINPERSID":
                _storage, dtype, key, _device, numel, *part = stack.pop()
                stack.append(storage(dtype, key, numel, part))
            case "BUILD":
                stack.pop()  # attributes of a mapping: the versions of its modules
            case "PROTO" | "FRAME":
                pass
            case _ if operation in CONSTANTS:
                stack.append(CONSTANTS[operation])
            case _ if operation in LITERALS:
                stack.append(argument)
            case _:
                raise Unsupported(f"found {operation} in its pickle, which torch.save does not write")
