"""Motion weights: positional encodings, and modules that are saved twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from animate_rt import CheckpointError
from animate_rt.export import Checkpoint, load_checkpoint
from animate_rt.export.checkpoints.weights import WrongWeights, read_weights
from animate_rt.export.networks.layers import Attention
from animate_rt.export.networks.motion import positions
from torch import Tensor

from .checkpoints import State, change, same


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def truth(small: Any) -> Checkpoint:
    return load_checkpoint(small.checkpoint)


def tables(state: State) -> State:
    return {key: value for key, value in state.items() if key.endswith(".pe")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounded_positional_encodings_are_computed_exactly(folder: Path, dtype: torch.dtype) -> None:
    """Of any length: MusePose has 128 positions."""

    def longer(state: State) -> State:
        return {
            key: positions(128, value.shape[2]).to(dtype) if key.endswith(".pe") else value
            for key, value in state.items()
        }

    change(folder / "motion_module.pth", longer)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.motion.max_frames == 128
    found = tables(checkpoint.denoising_unet.state_dict())
    assert found
    for table in found.values():
        assert torch.equal(table, positions(128, table.shape[2]))
        assert table[0, 0].tolist() == [0.0, 1.0] * (table.shape[2] // 2)


@pytest.mark.parametrize("spoilt", [lambda table: 0 * table, lambda table: table.flip(1), lambda t: t + 0.01])
def test_other_positional_encodings_are_used(folder: Path, spoilt: Callable[[Tensor], Tensor]) -> None:
    """As in the public code. Only one module has another table here."""
    changed = []

    def other(state: State) -> State:
        changed.append(next(iter(tables(state))))
        return {**state, changed[0]: spoilt(state[changed[0]])}

    change(folder / "motion_module.pth", other)
    network = load_checkpoint(folder).denoising_unet
    for key, table in tables(network.state_dict()).items():
        exact = positions(32, table.shape[2])
        assert torch.equal(table, spoilt(exact) if key == changed[0] else exact)
    module = network.get_submodule(changed[0].removesuffix(".pos_encoder.pe"))
    x = torch.randn(3, 8, table_width := tables(network.state_dict())[changed[0]].shape[2])
    assert table_width
    shifted = Attention.forward(module, x + spoilt(positions(32, table_width))[:, :8])
    assert torch.equal(module(x), shifted)


def test_positional_encodings_that_fit_no_module_are_refused(folder: Path) -> None:
    change(
        folder / "motion_module.pth", lambda state: {**state, "stray.pos_encoder.pe": torch.zeros(1, 32, 8)}
    )
    with pytest.raises(WrongWeights, match=r"1 unexpected: stray\.pos_encoder\.pe"):
        load_checkpoint(folder)


def test_motion_weights_in_both_files_must_agree(folder: Path, truth: Checkpoint) -> None:
    """Training scripts save the motion modules with the denoising UNet."""
    motion = dict(read_weights(folder / "motion_module.pth"))
    change(folder / "denoising_unet.pth", lambda state: state | motion)
    assert same(load_checkpoint(folder), truth)
    key = "mid_block.motion_modules.0.temporal_transformer.proj_in.bias"
    change(folder / "motion_module.pth", lambda state: {**state, key: state[key] + 1})
    with pytest.raises(CheckpointError, match=rf"other values for {key}"):
        load_checkpoint(folder)
