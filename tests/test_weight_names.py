"""Weights under the names that people have: keys with prefixes, levels around them, files and folders."""

from __future__ import annotations

import json
import random
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from animate_rt import CheckpointError
from animate_rt.export import Checkpoint, load_checkpoint
from animate_rt.export.checkpoints.directory import find_weights
from animate_rt.export.checkpoints.weights import read_weights
from safetensors.torch import save_file

from .checkpoints import State, change, same

UNETS = ("denoising_unet", "reference_unet", "motion_module", "pose_guider")
VAE = "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.checkpoint, tmp_path / "name with spaces ünï [v1.2]"))


@pytest.fixture(scope="module")
def truth(small: Any) -> Checkpoint:
    return load_checkpoint(small.checkpoint)


@pytest.fixture(scope="module")
def guider(small: Any) -> State:
    return dict(read_weights(small.checkpoint / "pose_guider.pth"))


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def inside(name: str, **beside: Any) -> Callable[[State], Any]:
    return lambda state: {name: state, **beside}


class PythonTwoDict(dict[str, Any]):
    """A mapping that is pickled as Python 2 did."""

    def __reduce__(self) -> Any:
        return OrderedDict, ([list(item) for item in self.items()],)


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "net.denoising_unet."])
def test_prefixes_of_keys(folder: Path, truth: Checkpoint, prefix: str) -> None:
    """In every file at once."""
    for file in (*(f"{name}.pth" for name in UNETS), VAE, "image_encoder/pytorch_model.bin"):
        change(folder / file, prefixed(prefix))
    assert same(load_checkpoint(folder), truth)


def test_modules_wrapped_one_by_one(folder: Path) -> None:
    def wrapped(state: State) -> State:
        return {
            key.replace(".resnets.", "._checkpoint_wrapped_module.resnets._orig_mod."): value
            for key, value in state.items()
        }

    before = read_weights(folder / "reference_unet.pth")
    change(folder / "reference_unet.pth", wrapped)
    assert read_weights(folder / "reference_unet.pth").keys() == before.keys()


@pytest.mark.parametrize(
    "edit",
    [
        inside("model"),
        inside("module", step=7),
        inside("ema", step=torch.tensor(7)),
        inside("model_state_dict", epoch=3, optimizer={"state": {0: {"exp_avg": torch.ones(2)}}}),
        inside("state_dict", size=torch.Size([1, 2]), device=torch.device("cuda", 0), dtype=torch.float16),
        lambda state: PythonTwoDict(state),
        inside("state_dict", hyper_parameters={"lr": 1e-5, "betas": (0.9, 0.999)}, lr_schedulers=[]),
        lambda state: {"state_dict": {"model": prefixed("module.")(state)}},
        lambda state: {"state_dict": prefixed("denoising_unet.")(state)},
        lambda state: {"model": {key: torch.nn.Parameter(value) for key, value in state.items()}},
        lambda state: {**state, "epoch": 3, "note": "text"},
    ],
)
def test_levels_around_weights(folder: Path, edit: Callable[[State], Any]) -> None:
    before = read_weights(folder / "denoising_unet.pth")
    change(folder / "denoising_unet.pth", edit)
    after = read_weights(folder / "denoising_unet.pth")
    assert after.keys() == before.keys()
    assert all(after[key].equal(before[key]) for key in after)


def test_500_generated_spellings(guider: State, tmp_path: Path) -> None:
    """Random prefixes, levels, things beside, and formats of one file."""
    random_ = random.Random(0)
    parts = ["module", "_orig_mod", "unet", "net", "model", "pose_guider", "generator", "a b", "ü"]
    levels = ["model", "module", "ema", "state_dict", "model_state_dict", "params_ema", "weights", "x y"]
    beside: dict[str, Any] = {
        "epoch": 3,
        "lr": 1e-5,
        "best": None,
        "note": "\x1b[1mline\n",
        "history": [1, 2],
    }
    for number in range(500):
        prefix = ".".join(random_.choices(parts, k=random_.randrange(4)))
        saved: Any = prefixed(f"{prefix}." if prefix else "")(guider)
        for level in random_.sample(levels, random_.randrange(4)):
            keys = random_.sample(list(beside), random_.randrange(3))
            saved = {**{key: beside[key] for key in keys}, level: saved}
            if random_.random() < 0.3:
                saved["optimizer"] = {"state": {0: torch.ones(3)}, "param_groups": [{"params": [0]}]}
        path = tmp_path / "file.pth"
        torch.save(saved, path, _use_new_zipfile_serialization=random_.random() < 0.5)
        found = read_weights(path)
        assert found.keys() == guider.keys(), number
        assert all(found[key].equal(guider[key]) for key in found), number


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: {"model": state, "ema": state}, "expected one set of weights, found model, ema"),
        (lambda _: {"model": {"epoch": 3}, "step": 7}, "names to tensors, found model, step"),
        (lambda state: {"optimizer": state}, "names to tensors, found optimizer"),
        (lambda state: {**state, "more": {"conv_in.weight": torch.ones(2)}}, "text, found more"),
        (
            lambda state: {**state, "module.conv_in.bias": state["conv_in.bias"]},
            "conv_in.bias under two names",
        ),
        (lambda state: [state], "names to tensors, found list"),
        (lambda state: state["conv_in.bias"], "names to tensors, found a tensor"),
        (lambda _: {}, "names to tensors, found nothing"),
        (lambda state: {**state, "extra.bias": torch.ones(2)}, "1 unexpected: extra.bias"),
        (lambda state: {**state, "\x1b[1m\n": torch.ones(2)}, r"1 unexpected: \\x1b\[1m"),
        (
            lambda state: {k: (100 * v).to(torch.int8) for k, v in state.items()},
            "found torch.int8 in blocks.0.bias",
        ),
    ],
)
def test_weights_that_are_not_clear(folder: Path, edit: Callable[[State], Any], message: str) -> None:
    change(folder / "pose_guider.pth", edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "model.ckpt",
            "model.pt",
            "model-30000.pth",
            "model_1.bin",
            "model.fp16.safetensors",
            "model-fp32.bin",
        ),
        *("model.bf16.pth", "model.safetensors.index.json", "model.bin.index.fp16.json"),
    ],
)
def test_names_of_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"weight_map": {"key": "part.bin"}}')
    for other in (
        "part.bin",
        "model",
        "model.onnx",
        "model.txt",
        "model-old.bin",
        "models.bin",
        "model.bin.part",
    ):
        (tmp_path / other).touch()
    expected = "part.bin" if name.endswith(".json") else name
    assert find_weights(tmp_path, "other", "model") == (tmp_path / expected,)
    (tmp_path / "model.bin").touch()
    assert find_weights(tmp_path, "other", "model") == (tmp_path / "model.bin",)


@pytest.mark.parametrize("suffix", [".ckpt", "-30000.pth", ".fp16.safetensors"])
def test_names_of_files(folder: Path, truth: Checkpoint, suffix: str) -> None:
    kind = "." + suffix.rpartition(".")[2]
    for name in UNETS:
        change(folder / f"{name}.pth", lambda state: state, kind)
        (folder / f"{name}{kind}").rename(folder / f"{name}{suffix}")
    (folder / VAE).rename((folder / VAE).with_suffix(".fp16.safetensors"))
    assert same(load_checkpoint(folder), truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_number_formats(folder: Path, truth: Checkpoint, dtype: torch.dtype) -> None:
    def other(state: State) -> State:
        return {key: value.to(dtype) for key, value in state.items()}

    for name in UNETS:
        change(folder / f"{name}.pth", other, ".safetensors")
    found, expected = (c.denoising_unet.state_dict() for c in (load_checkpoint(folder), truth))
    for key, value in expected.items():
        assert found[key].equal(value if key.endswith(".pe") else value.to(dtype).float())


def test_several_candidates_are_listed(folder: Path) -> None:
    (folder / "denoising_unet.pth").rename(folder / "denoising_unet-30000.pth")
    shutil.copy(folder / "denoising_unet-30000.pth", folder / "denoising_unet-20000.pth")
    with pytest.raises(
        CheckpointError, match=r"denoising_unet-20000\.pth, denoising_unet-30000\.pth; keep one"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["denoising_unet.pth.part", "denoising_unet.onnx", "denoising_unet-old.pth"])
def test_names_that_are_no_weights_do_not_hide_the_base(
    folder: Path, small: Any, truth: Checkpoint, name: str
) -> None:
    (folder / "denoising_unet.pth").rename(folder / name)
    assert same(load_checkpoint(folder, base=small.checkpoint), truth)
    with pytest.raises(CheckpointError, match=f"found no such file, only {name}"):
        load_checkpoint(folder)


def test_weights_without_a_config_do_not_fall_back_to_the_base(folder: Path, small: Any) -> None:
    (folder / "sd-vae-ft-mse" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"sd-vae-ft-mse/config\.json: expected a file"):
        load_checkpoint(folder, base=small.checkpoint)


def split(folder: Path, stem: str, suffix: str, parts: int) -> dict[str, str]:
    """Split a weight file into shards with an index."""
    (path,) = folder.glob(f"{stem}.*")
    state = {key: value.clone() for key, value in read_weights(path).items()}
    path.unlink()
    files = {}
    for number in range(parts):
        name = f"{stem}-{number + 1:05}-of-{parts:05}{suffix}"
        part = {key: state[key] for key in sorted(state)[number::parts]}
        save_file(part, folder / name) if suffix == ".safetensors" else torch.save(part, folder / name)
        files |= dict.fromkeys(part, name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards(folder: Path, truth: Checkpoint, suffix: str) -> None:
    split(folder / "sd-vae-ft-mse", "diffusion_pytorch_model", suffix, 2)
    split(folder / "image_encoder", "pytorch_model", suffix, 3)
    loaded = load_checkpoint(folder)
    assert same(loaded, truth)
    assert len([name for name in loaded.weights if "-of-00003" in name]) == 3


def test_shards_that_are_not_all_there(folder: Path) -> None:
    files = split(folder / "sd-vae-ft-mse", "diffusion_pytorch_model", ".safetensors", 3)
    last, first = max(files.values()), min(files.values())
    content = (folder / "sd-vae-ft-mse" / last).read_bytes()
    (folder / "sd-vae-ft-mse" / last).unlink()
    with pytest.raises(CheckpointError, match=f"expected 3 files beside it, found no {last}; download them"):
        load_checkpoint(folder)
    (folder / "sd-vae-ft-mse" / last).write_bytes(content)
    shutil.copy(folder / "sd-vae-ft-mse" / first, folder / "sd-vae-ft-mse" / last)
    with pytest.raises(CheckpointError, match="expected keys that no other shard has"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["../denoising_unet.pth", "/etc/passwd", "", "..", "x.txt"])
def test_an_index_names_only_weights_beside_it(folder: Path, name: str) -> None:
    split(folder / "sd-vae-ft-mse", "diffusion_pytorch_model", ".safetensors", 2)
    index = folder / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="names of weight files beside it"):
        load_checkpoint(folder)


def test_folders_of_a_diffusers_repository(folder: Path, truth: Checkpoint) -> None:
    (folder / "sd-vae-ft-mse").rename(folder / "vae")
    (folder / "stable-diffusion-v1-5" / "unet").rename(folder / "unet")
    assert same(load_checkpoint(folder), truth)


def test_links_into_a_cache(folder: Path, truth: Checkpoint, tmp_path: Path) -> None:
    """The cache of Hugging Face: files are links to blobs, named by their hash, outside the directory."""
    (tmp_path / "blobs").mkdir()
    files = [path for path in folder.rglob("*") if path.is_file()]
    for number, path in enumerate(files):
        path.rename(tmp_path / "blobs" / f"{number:040x}")
        path.symlink_to(tmp_path / "blobs" / f"{number:040x}")
    loaded = load_checkpoint(folder)
    assert same(loaded, truth)
    assert loaded.weights == truth.weights
    (tmp_path / "blobs" / f"{files.index(folder / 'pose_guider.pth'):040x}").unlink()
    with pytest.raises(CheckpointError, match=r"pose_guider\.pth: .* a link to a file that is not there"):
        load_checkpoint(folder)
