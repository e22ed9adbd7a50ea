"""Weight files: found, read without running anything they hold, and brought to today's key names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError

SUFFIXES = (".safetensors", ".pth", ".bin", ".ckpt", ".pt")
SHOWN = 8  # keys listed in a message; the exception carries all of them

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION_KEY = re.compile(r"(mid_block\.attentions\.0\.)(query|key|value|proj_attn)\.")


class WrongWeights(CheckpointError):
    """Weights whose keys or shapes are not the network's; each attribute lists all of its kind."""

    def __init__(self, name: str, missing: list[str], unexpected: list[str], misshapen: list[str]):
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        parts = [
            f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}" + (", ..." if len(keys) > SHOWN else "")
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


def find_weights(folder: Path, *stems: str) -> Path:
    """The weight file of that name, whatever its format."""
    for stem in stems:
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    raise CheckpointError(f"{folder}: expected {stems[0]}{{{','.join(SUFFIXES[:3])}}}, found no such file")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by key, memory-mapped where the format allows it, under today's names (SPEC.md 1.6, 1.9)."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = load_pickled(path)
    except Exception as error:  # torch and safetensors raise a dozen types for a broken file
        raise CheckpointError(
            f"{path}: expected weights saved by torch or safetensors, cannot read them: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)  # training frameworks wrap it
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a mapping of names to tensors, found {type(state).__name__}")
    return {today(key): value for key, value in state.items() if not key.endswith("position_ids")}


def load_pickled(path: Path) -> Any:
    """`weights_only` admits tensors and containers and nothing that could run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of torch < 1.6 are no zip and cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def today(key: str) -> str:
    key = key.removeprefix("module.")
    return OLD_ATTENTION_KEY.sub(lambda old: f"{old[1]}{OLD_ATTENTION[old[2]]}.", key)


def assign(network: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype, name: str) -> None:
    """Give a network made on the meta device its weights; WrongWeights lists what does not fit."""
    expected = network.state_dict()
    fitting, misshapen = {}, []
    for key in expected.keys() & state.keys():
        weight, shape = state[key], expected[key].shape
        if weight.dim() == 4 and len(shape) == 2 and weight.shape[2:] == (1, 1):
            weight = weight[:, :, 0, 0]  # a linear layer saved as a 1x1 convolution
        if weight.shape == shape:
            fitting[key] = weight.to(dtype)
        else:
            misshapen.append(f"{key} {list(weight.shape)} instead of {list(shape)}")
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unexpected or misshapen:
        raise WrongWeights(name, missing, unexpected, sorted(misshapen))
    network.load_state_dict(fitting, assign=True)
    network.requires_grad_(False).eval()


def sha256_of(paths: Iterable[Path], roots: list[Path]) -> dict[str, str]:
    """SHA-256 by path relative to whichever of `roots` it is in."""
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            name = next(path.relative_to(root) for root in roots if path.is_relative_to(root)).as_posix()
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
