"""A stage of training: its interface to the training loop, and helpers for tensors and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..world.scene import Picture

Figures = dict[str, float]

HELD_OUT = 12  # scenes evaluated during training


class Pace(NamedTuple):
    """Hyperparameters of a stage on one type of device."""

    iterations: int
    rate: float  # peak learning rate
    batch: int


class Iteration(NamedTuple):
    """The progress of a stage, and the random generators of one iteration."""

    progress: float  # from 0 to 1
    shared: np.random.Generator  # the same in all workers
    rng: torch.Generator  # each worker's own


class Batch(NamedTuple):
    """The input of an iteration. Batches of equal form and shapes run the same computation."""

    form: Hashable
    tensors: list[Tensor]


class Stage(ABC):
    """One training run. `network` is trained in place; only parameters that require gradients change."""

    name: str
    paces: ClassVar[dict[str, Pace]]  # by type of device
    network: nn.Module

    @cached_property
    def pace(self) -> Pace:
        """Those of the current device; may be replaced before training."""
        return self.paces[torch.get_default_device().type]

    def rate(self, _name: str) -> float:
        """The learning rate of a parameter, as a fraction of the stage's."""
        return 1.0

    @abstractmethod
    def batch(self, now: Iteration) -> Batch:
        """The input of an iteration, with everything random in it."""

    @abstractmethod
    def loss(self, form: Any, *tensors: Tensor) -> Tensor:
        """The loss of a batch: no random numbers and no synchronization, as a GPU replays it as a graph."""

    @abstractmethod
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        """Figures on held-out scenes, and a picture of them."""


def trained_weights(folder: Path, stage: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(
        folder / f"{stage}.pt", weights_only=True, map_location=torch.get_default_device()
    )
    return state


# Tensors


@contextmanager
def autocast() -> Iterator[None]:
    """bfloat16 for products. On CPUs attention is computed by products, as the fused gradient is slow."""
    device = torch.get_default_device().type
    with torch.autocast(device, torch.bfloat16), AttentionAsProducts() if device == "cpu" else nullcontext():
        yield


class AttentionAsProducts(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    return (scores if attn_mask is None else scores + attn_mask).softmax(dim=3, dtype=scores.dtype) @ value


def generator(seed: int) -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def to_tensor(pictures: Picture) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [0, 1]"""
    return scaled(torch.tensor(pictures))


def scaled(pictures: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [0, 1]"""
    return pictures.permute(0, 3, 1, 2).float() / 255


def to_pictures(tensor: Tensor) -> Picture:
    array: Picture = (tensor.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return array


# Figures


def psnr(made: Tensor, true: Tensor) -> float:
    """In decibels, averaged over pictures."""
    errors = (made - true).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


def side_by_side(pictures: Picture) -> Picture:
    """Pictures (n, H, W, 3) in a row, (H, n * W, 3)."""
    return np.concatenate(list(pictures), axis=1)
