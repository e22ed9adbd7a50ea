"""Weights by their current keys: read from files of any supported format, and assigned to networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, OutOfMemory
from ...text import message_of, quoted
from .contents import AGAIN
from .directory import SHOWN, listed
from .families import FIRST_PARTS, OLD_ATTENTION, OLD_ATTENTION_KEY, TRAINING, WRAPPERS
from .pickles import View
from .tensor_file import TensorFile

MAX_LEVELS = 8  # of mappings around the weights
MAX_TENSORS = 20_000  # of one network; SDXL's UNet has 1,680
NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)


class WrongWeights(CheckpointError):
    """Weights whose keys or shapes do not match the network. The attributes list all keys of each kind."""

    def __init__(self, name: str, missing: list[str], unexpected: list[str], misshapen: list[str]):
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        parts = [
            f"{len(keys)} {kind}: {', '.join(map(quoted, keys[:SHOWN]))}"
            + (", ..." if len(keys) > SHOWN else "")
            for kind, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of wrong shape", misshapen),
            )
            if keys
        ]
        super().__init__(
            f"{name}: expected exactly the keys and shapes of the configs, found {'; '.join(parts)}"
        )


def read_weights(*paths: Path) -> dict[str, Tensor]:
    """Read the tensors of one file, or of all shards, by their current keys (SPEC.md 1.6, 1.9).

    The files are mapped into memory: a tensor's numbers are read when they are used. Raises CheckpointError
    if a file is damaged or does not hold exactly one set of weights.
    """
    weights: dict[str, Tensor] = {}
    for path in paths:
        file = TensorFile(path)
        state = state_dict(file.contents, path)
        if (total := len(weights) + len(state)) > MAX_TENSORS:
            raise CheckpointError(
                f"{path}: expected at most {MAX_TENSORS:,} tensors for one network, found {total:,}"
            )
        tensors = file.tensors(current_keys(state, path))
        if twice := sorted(weights.keys() & tensors.keys()):
            raise CheckpointError(f"{path}: expected keys that no other shard has, found {listed(twice)}")
        weights |= tensors
    return weights


def state_dict(saved: Any, path: Path) -> dict[str, View]:
    """Take the one set of weights out of the mappings that training frameworks put around it."""
    holders = with_views(saved)
    for _ in range(MAX_LEVELS):
        inner = sets_of_weights(saved, holders)
        if len(inner) > 1:
            raise CheckpointError(
                f"{path}: expected one set of weights, found {listed(inner)}; save one of them alone"
            )
        if not inner:
            break
        (saved,) = inner.values()
    if not isinstance(saved, dict):
        kind = "a tensor" if isinstance(saved, View) else type(saved).__name__
        raise CheckpointError(f"{path}: expected a mapping of names to tensors, found {kind}")
    state = {key: value for key, value in saved.items() if isinstance(value, View)}
    if not state:
        names = listed(saved) or "nothing"
        raise CheckpointError(f"{path}: expected a mapping of names to tensors, found {names}")
    # Numbers and texts beside the tensors say how they were trained.
    strange = [key for key, value in saved.items() if key not in state and id(value) in holders]
    if strange := strange or [key for key in state if not isinstance(key, str)]:
        raise CheckpointError(f"{path}: expected tensors whose names are text, found {listed(strange)}")
    return state


def with_views(saved: Any) -> set[int]:
    """The id of each mapping and list that has a view in it, at any depth. Each is looked through once, as
    a small file can name the same large list many times."""
    outer: dict[int, list[int]] = {id(saved): []}  # the ids of what each one is in
    waiting, found = [saved], []
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict | list | tuple):
            continue
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, View):
                found.append(id(value))
            elif isinstance(part, dict | list | tuple):
                if id(part) not in outer:
                    outer[id(part)] = []
                    waiting.append(part)
                outer[id(part)].append(id(value))
    holders: set[int] = set()
    while found:
        if (each := found.pop()) not in holders:
            holders.add(each)
            found += outer[each]
    return holders


def sets_of_weights(saved: Any, holders: set[int]) -> dict[Any, Any]:
    """The mappings with tensors in a mapping that has none itself, except of single numbers."""
    if not isinstance(saved, dict) or any(isinstance(v, View) and v.size for v in saved.values()):
        return {}
    return {
        key: value
        for key, value in saved.items()
        if key not in TRAINING and isinstance(value, dict) and id(value) in holders
    }


def current_keys(state: Mapping[str, View], path: Path) -> dict[str, View]:
    """Rename keys as the networks have them, without wrappers' names and older ones."""
    split = [[part for part in key.split(".") if part not in WRAPPERS] for key in state]
    outer = outer_parts(split)
    current: dict[str, View] = {}
    for parts, value in zip(split, state.values(), strict=True):
        key = ".".join(parts[outer:])
        key = OLD_ATTENTION_KEY.sub(lambda old: f"{old[1]}{OLD_ATTENTION[old[2]]}.", key)
        if key in current:
            raise CheckpointError(f"{path}: expected each key once, found {quoted(key)} under two names")
        current[key] = value
    return current


def outer_parts(keys: list[list[str]]) -> int:
    """How many parts stand in every key before the first one that is a network's own, as in unet.conv_in."""
    for count in range(min(map(len, keys))):
        parts = {key[count] for key in keys}
        if parts & FIRST_PARTS:
            return count
        if len(parts) > 1:
            break
    return 0


def fit(network: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights in the shapes of a network on the meta device. Raises WrongWeights if they do not fit."""
    expected = network.state_dict()
    fitting, misshapen = {}, []
    for key in (key for key in expected if key in state):
        weight, shape = state[key], expected[key].shape
        if weight.dim() == 4 and len(shape) == 2 and weight.shape[2:] == (1, 1):
            weight = weight[:, :, 0, 0]  # a linear layer saved as a 1x1 convolution
        if weight.shape != shape:
            misshapen.append(f"{key} {list(weight.shape)} instead of {list(shape)}")
        fitting[key] = weight
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unexpected or misshapen:
        raise WrongWeights(name, missing, unexpected, sorted(misshapen))
    if whole := [key for key in fitting if fitting[key].dtype not in NUMBERS]:
        raise CheckpointError(
            f"{name}: expected floating-point numbers, found {fitting[whole[0]].dtype} in {min(whole)}; "
            "quantized weights are not supported"
        )
    return fitting


def assign(network: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype, name: str) -> None:
    """Load weights into a network created on the meta device.

    Raises WrongWeights if they do not fit, CheckpointError if they are not finite in `dtype`, OutOfMemory if
    there is no room for them.
    """
    fitting = fit(network, state, name)
    try:
        weights = {key: converted(weight, dtype, key, name) for key, weight in fitting.items()}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{name}: no room for its weights; use a machine with more memory") from error
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False).eval()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch with a RuntimeError, had no memory."""
    return isinstance(error, MemoryError) or "can't allocate memory" in message_of(error)


def converted(weight: Tensor, dtype: torch.dtype, key: str, name: str) -> Tensor:
    result = weight.to(dtype)
    lowest, highest = result.aminmax()  # not a number if any value is not
    if lowest.isfinite() and highest.isfinite():
        return result
    exact = weight.double()  # formats of one byte have no isfinite
    if exact.isfinite().all():
        advice = "build with --precision fp32" if dtype == torch.float16 else AGAIN
        raise CheckpointError(
            f"{name}: expected weights of at most {torch.finfo(dtype).max:,.7g} in {dtype}, found "
            f"{exact.abs().max():,.7g} in {key}; {advice}"
        )
    raise CheckpointError(f"{name}: expected finite weights, found infinite ones or NaN in {key}; {AGAIN}")


def sha256_of(paths: Iterable[Path], roots: list[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path relative to the root that contains it."""
    digests = {}
    for path in paths:
        name = next(path.relative_to(root) for root in roots if path.is_relative_to(root)).as_posix()
        try:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path}: expected weights, cannot read them: {error.strerror}") from error
    return digests
