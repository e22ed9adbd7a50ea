"""Checkpoints of random weights, as public loaders read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from animate_rt.benchmarks.random_checkpoint import write_random_checkpoint
from animate_rt.export import load_checkpoint
from animate_rt.export.networks.motion import positions
from safetensors import safe_open
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random")
    write_random_checkpoint(path, "tiny")
    return path


def test_the_vae_names_its_blocks(folder: Path) -> None:
    """Without these diffusers makes a VAE of one level."""
    config = json.loads((folder / "sd-vae-ft-mse" / "config.json").read_text())
    levels = len(config["block_out_channels"])
    assert config["down_block_types"] == ["DownEncoderBlock2D"] * levels
    assert config["up_block_types"] == ["UpDecoderBlock2D"] * levels


def test_weight_files_say_that_they_are_pytorchs(folder: Path) -> None:
    """Without it transformers refuses them."""
    files = list(folder.rglob("*.safetensors"))
    assert len(files) == 6
    for path in files:
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_positional_encodings_are_the_sinusoids_of_public_weights(folder: Path) -> None:
    stored = load_file(folder / "motion_module.safetensors")
    tables = {key: table for key, table in stored.items() if key.endswith(".pe")}
    assert tables
    loaded = load_checkpoint(folder).denoising_unet.state_dict()
    for key, table in tables.items():
        exact = positions(32, table.shape[2])
        assert table.equal(exact.to(torch.float16))
        assert loaded[key].equal(exact)
