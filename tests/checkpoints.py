"""Checkpoints for tests: weight files rewritten, and networks compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from animate_rt.export import Checkpoint
from animate_rt.export.checkpoints.weights import read_weights
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
NETWORKS = ("denoising_unet", "reference_net", "pose_guider", "vae", "image_encoder")


def change(path: Path, edit: Callable[[State], State], suffix: str | None = None) -> None:
    """Rewrite a weight file, in another format if `suffix` says so."""
    state = edit({key: value.clone() for key, value in read_weights(path).items()})
    path.unlink()
    path = path.with_suffix(suffix or path.suffix)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)


def unchanged(state: State) -> State:
    return state


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether both have the same config and weights, bit by bit."""
    return a.config == b.config and all(
        torch.equal(x, y)
        for name in NETWORKS
        for x, y in zip(
            getattr(a, name).state_dict().values(), getattr(b, name).state_dict().values(), strict=True
        )
    )
