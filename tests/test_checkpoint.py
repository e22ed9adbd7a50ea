"""Checkpoints in every public layout and key style, and errors that list what does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from animate_rt import CheckpointError, InputMissing
from animate_rt.engines.model import SamplingConfig
from animate_rt.export import Checkpoint, load_checkpoint
from animate_rt.export.checkpoints.weights import WrongWeights, read_weights
from safetensors.torch import load_file

from .checkpoints import State, change, same, unchanged


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def truth(small: Any) -> Checkpoint:
    return load_checkpoint(small.checkpoint, small.inference_config)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_weight_file_formats(folder: Path, truth: Checkpoint, suffix: str) -> None:
    for path in list(folder.rglob("*")):
        if path.suffix in (".pth", ".bin", ".safetensors"):
            change(path, unchanged, suffix)
    assert same(load_checkpoint(folder), truth)


def old_attention(state: State) -> State:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            if "mid_block.attentions.0." in key and f".{new}." in key:
                key = key.replace(f".{new}.", f".{old}.")
                value = value[:, :, None, None] if value.dim() == 2 else value
        renamed[key] = value
    assert renamed.keys() != state.keys()
    return renamed


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("sd-vae-ft-mse/diffusion_pytorch_model.safetensors", old_attention),
        ("motion_module.pth", lambda state: {f"module.{key}": value for key, value in state.items()}),
        ("pose_guider.pth", lambda state: {"state_dict": state}),
        (
            "image_encoder/pytorch_model.bin",
            lambda state: {**state, "vision_model.embeddings.position_ids": torch.arange(50)[None]},
        ),
        (
            "reference_unet.pth",
            lambda state: {
                **state,
                "conv_out.weight": torch.zeros(4, 32, 3, 3),
                "conv_out.bias": torch.zeros(4),
            },
        ),
        ("denoising_unet.pth", lambda state: {key: value.half() for key, value in state.items()}),
        ("motion_module.pth", lambda state: {k: v for k, v in state.items() if not k.endswith(".pe")}),
    ],
)
def test_public_variants_of_keys_and_values(
    folder: Path, truth: Checkpoint, file: str, edit: Callable[[State], State]
) -> None:
    """Old VAE names with 1x1 convolutions, a key prefix, a state_dict wrapper, an extra buffer, an extra
    head, half precision, and no positional encodings."""
    change(folder / file, edit)
    assert same(load_checkpoint(folder), truth)


@pytest.mark.parametrize("value", [65_520.0, -1e30])
def test_weights_too_large_for_float16_are_refused(folder: Path, value: float) -> None:
    def large(state: State) -> State:
        weight = state["blocks.2.weight"].float()
        weight[0, 0, 0, 0] = value
        return {**state, "blocks.2.weight": weight}

    change(folder / "pose_guider.pth", large)
    assert load_checkpoint(folder).pose_guider.blocks[2].weight[0, 0, 0, 0] == value
    with pytest.raises(CheckpointError, match=r"at most 65,504 in torch\.float16.* in blocks\.2\.weight"):
        load_checkpoint(folder, dtype=torch.float16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    change(folder / "pose_guider.pth", lambda state: {**state, "conv_in.bias": state["conv_in.bias"] * value})
    with pytest.raises(CheckpointError, match=r"finite weights.* in conv_in\.bias"):
        load_checkpoint(folder)


def test_pose_channels_come_from_the_weights(truth: Checkpoint, sdlike: Any) -> None:
    assert truth.config.pose_channels == (8, 16, 32, 48)
    assert load_checkpoint(sdlike.checkpoint).config.pose_channels == (16, 32, 48, 64)


def test_the_musepose_layout(folder: Path, truth: Checkpoint) -> None:
    (folder / "MusePose").mkdir()
    for name in ("denoising_unet", "motion_module", "reference_unet", "pose_guider"):
        (folder / f"{name}.pth").rename(folder / "MusePose" / f"{name}.pth")
    (folder / "stable-diffusion-v1-5").rename(folder / "sd-image-variations-diffusers")
    config = dataclasses.replace(truth.config, pose_style="musepose", member="musepose")
    assert same(load_checkpoint(folder), dataclasses.replace(truth, config=config))


def without(part: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if part not in key}


def test_missing_motion_weights_are_refused(folder: Path) -> None:
    change(folder / "motion_module.pth", without("up_blocks"))
    with pytest.raises(
        WrongWeights, match=r"motion_module\.pth.*missing: up_blocks\.0\.motion_modules"
    ) as caught:
        load_checkpoint(folder)
    assert len(caught.value.missing) > 100
    assert all("motion_modules" in key for key in caught.value.missing)
    (folder / "motion_module.pth").unlink()
    with pytest.raises(CheckpointError, match="expected motion_module"):
        load_checkpoint(folder)


def test_everything_that_does_not_fit_is_listed_at_once(folder: Path) -> None:
    def spoil(state: State) -> State:
        state["extra.weight"] = torch.zeros(1)
        state["conv_in.weight"] = torch.zeros(8, 3, 5, 5)
        del state["blocks.0.bias"]
        return state

    change(folder / "pose_guider.pth", spoil)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    for part in (
        "pose_guider.pth",
        "1 missing: blocks.0.bias",
        "1 unexpected: extra.weight",
        "1 of wrong shape: conv_in.weight [8, 3, 5, 5] instead of [8, 3, 3, 3]",
    ):
        assert part in str(caught.value)


class Trap:
    """Creates a folder when its pickle is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (os.fspath(self.path),)


def test_loading_runs_no_pickled_code(folder: Path, tmp_path: Path) -> None:
    torch.save({"conv_in.weight": Trap(tmp_path / "sprung")}, folder / "pose_guider.pth")
    with pytest.raises(CheckpointError, match=r"pose_guider\.pth"):
        load_checkpoint(folder)
    (folder / "pose_guider.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match=r"pose_guider\.pth"):
        load_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04"])
@pytest.mark.parametrize("file", ["reference_unet.pth", "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"])
def test_unreadable_weight_files(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot read them") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_a_weight_file_that_holds_a_list(folder: Path) -> None:
    torch.save([torch.zeros(1)], folder / "pose_guider.pth")
    with pytest.raises(CheckpointError, match="mapping of names to tensors, found list"):
        load_checkpoint(folder)


def test_missing_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        load_checkpoint(tmp_path / "none")
    shutil.rmtree(folder / "image_encoder")
    with pytest.raises(CheckpointError, match=r"image_encoder/config\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("stable-diffusion-v1-5/unet", "act_fn", "gelu", "act_fn: expected 'silu'.*found 'gelu'"),
        ("stable-diffusion-v1-5/unet", "use_linear_projection", True, "use_linear_projection"),
        ("stable-diffusion-v1-5/unet", "down_block_types", ["DownBlock2D"], "mirror"),
        ("stable-diffusion-v1-5/unet", "attention_head_dim", 7, "divisible by 7 heads, found 32"),
        ("stable-diffusion-v1-5/unet", "cross_attention_dim", 99, "projection_dim of 99"),
        (
            "stable-diffusion-v1-5/unet",
            "attention_head_dim",
            [8],
            "expected heads and attention for 4 levels",
        ),
        ("stable-diffusion-v1-5/unet", "attention_head_dim", "8", r"config\.json: attention_head_dim"),
        ("stable-diffusion-v1-5/unet", "norm_num_groups", 0, "divisible by 0 groups"),
        ("stable-diffusion-v1-5/unet", "layers_per_block", 0, "from 1 to 128, found 0"),
        ("sd-vae-ft-mse", "norm_num_groups", 0, "divisible by 0 groups"),
        ("image_encoder", "patch_size", 0, "pixels per patch"),
        ("image_encoder", "num_attention_heads", 5, "divisible by 5 heads"),
        ("sd-vae-ft-mse", "block_out_channels", "wide", "block_out_channels: expected"),
        ("image_encoder", "hidden_act", "relu", "hidden_act"),
    ],
)
def test_unsupported_network_settings(folder: Path, file: str, key: str, value: Any, message: str) -> None:
    path = folder / file / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_few_step_weights_take_the_rest_from_a_base(small: Any, folder: Path, tmp_path: Path) -> None:
    """The few-step folder has a denoising UNet and its sampling; everything else comes from the base."""
    few = tmp_path / "few"
    few.mkdir()
    shutil.move(folder / "denoising_unet.pth", few)
    shutil.copy(small.inference_config, folder / "inference.yaml")
    (few / "inference.yaml").write_text("sampling: {timesteps: [999, 499]}")
    loaded = load_checkpoint(few, base=folder)
    assert loaded.config.sampling == SamplingConfig(timesteps=(999, 499))
    whole = load_checkpoint(small.checkpoint, small.inference_config)
    assert loaded.weights == whole.weights
    assert loaded.config == dataclasses.replace(whole.config, sampling=loaded.config.sampling)
    assert whole.config.sampling == SamplingConfig()
    with pytest.raises(CheckpointError, match=r"few: expected .* found no such file"):
        load_checkpoint(few)
    (few / "inference.yaml").write_text("sampling: {steps: few}")
    with pytest.raises(CheckpointError, match="sampling"):
        load_checkpoint(few, base=folder)


def inference(tmp_path: Path, small: Any, section: str, **changed: Any) -> Path:
    document = yaml.safe_load(small.inference_config.read_text())
    document[section] |= changed
    document[section] = {key: value for key, value in document[section].items() if value is not None}
    path = tmp_path / "inference.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("section", "changed", "message"),
    [
        (
            "unet_additional_kwargs",
            {"use_inflated_groupnorm": False},
            "use_inflated_groupnorm: expected True",
        ),
        (
            "unet_additional_kwargs",
            {"use_inflated_groupnorm": None},
            "use_inflated_groupnorm: .* found False",
        ),
        ("unet_additional_kwargs", {"use_motion_module": False}, "use_motion_module"),
        ("noise_scheduler_kwargs", {"clip_sample": None}, "clip_sample: expected False.*found True"),
        ("noise_scheduler_kwargs", {"beta_schedule": "cosine"}, "beta_schedule: expected one of linear"),
        ("noise_scheduler_kwargs", {"prediction_type": "sample"}, "prediction_type"),
        ("noise_scheduler_kwargs", {"prediction_type": "epsilon"}, "zero terminal SNR"),
        ("noise_scheduler_kwargs", {"beta_end": "high"}, "beta_end: expected float"),
        ("noise_scheduler_kwargs", {"beta_start": float("nan")}, "beta_start: expected a finite"),
        ("noise_scheduler_kwargs", {"beta_end": 2.0}, "0 < beta_start"),
    ],
)
def test_unsupported_inference_settings(
    small: Any, tmp_path: Path, section: str, changed: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(small.checkpoint, inference(tmp_path, small, section, **changed))


def test_inference_settings_are_read(small: Any, tmp_path: Path) -> None:
    scaled = inference(
        tmp_path, small, "noise_scheduler_kwargs", beta_schedule="scaled_linear", steps_offset=0
    )
    config = load_checkpoint(small.checkpoint, scaled).config
    assert (config.noise.beta_schedule, config.noise.steps_offset) == ("scaled_linear", 0)
    absent = inference(tmp_path, small, "unet_additional_kwargs", motion_module_mid_block=False)
    with pytest.raises(WrongWeights, match="unexpected: mid_block"):
        load_checkpoint(small.checkpoint, absent)


@pytest.mark.parametrize("content", ["[1, 2", "- a list", "", "unet_additional_kwargs: 3"])
def test_unreadable_inference_settings(small: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "inference.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"inference\.yaml"):
        load_checkpoint(small.checkpoint, tmp_path / "inference.yaml")


def test_read_weights_finds_every_key_of_a_safetensors_file(small: Any) -> None:
    path = small.checkpoint / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors"
    assert read_weights(path).keys() == load_file(path).keys()
