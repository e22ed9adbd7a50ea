"""Config files of strangers, and what is checked before weights are read."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import animate_rt.export.build
import animate_rt.export.checkpoints.checkpoint
import pytest
import yaml
from animate_rt import AnimateError, CheckpointError, ConfigError, DeviceError, InputMissing, OutputError
from animate_rt.__main__ import main
from animate_rt.engines.contract import ShapeBucket
from animate_rt.engines.cpu import openvino
from animate_rt.export import build_bundle, load_checkpoint
from animate_rt.export.checkpoints.settings import model_config

from .damage import thread_cpu_s

UNET, VAE, ENCODER = (
    "stable-diffusion-v1-5/unet/config.json",
    "sd-vae-ft-mse/config.json",
    "image_encoder/config.json",
)
INFERENCE = "inference.yaml"
BUCKET = ShapeBucket(width=64, height=64, window=8)


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    shutil.copytree(small.checkpoint, tmp_path / "checkpoint")
    shutil.copy(small.inference_config, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document) if path.suffix == ".json" else yaml.safe_dump(document))


def set_value(folder: Path, file: str, keys: str, value: Any) -> None:
    document = part = read(folder / file)
    *outer, last = keys.split(".")
    for key in outer:
        part = part[key]
    part[last] = value
    write(folder / file, document)


MOTION = "unet_additional_kwargs.motion_module_kwargs"


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        (UNET, "layers_per_block", 10**9),
        (UNET, "layers_per_block", 10**6),
        (UNET, "layers_per_block", 128),
        (UNET, "norm_eps", 10**400),
        (UNET, "norm_eps", 0.0),
        (UNET, "norm_eps", float("nan")),
        (UNET, "block_out_channels", []),
        (UNET, "block_out_channels", [32] * 20_000),
        (UNET, "block_out_channels", [2**40] * 4),
        (UNET, "attention_head_dim", 2**70),
        (UNET, "act_fn", "x" * 100_000),
        (VAE, "layers_per_block", 10**6),
        (VAE, "layers_per_block", 128),
        (VAE, "scaling_factor", 0),
        (VAE, "scaling_factor", float("inf")),
        (VAE, "block_out_channels", [32] * 30),
        (VAE, "down_block_types", [[[[[]]]]]),
        (VAE, "shift_factor", 0.1),
        (ENCODER, "num_hidden_layers", 10**6),
        (ENCODER, "hidden_size", 2**40),
        (ENCODER, "image_size", 10**9),
        (ENCODER, "hidden_act", "\x1b[31mrelu\n"),
        (INFERENCE, f"{MOTION}.num_transformer_block", 10**6),
        (INFERENCE, f"{MOTION}.num_transformer_block", 128),
        (INFERENCE, f"{MOTION}.attention_block_types", ["Temporal_Self"] * 5000),
        (INFERENCE, f"{MOTION}.attention_block_types", ["Temporal_Self"] * 128),
        (INFERENCE, f"{MOTION}.cross_frame_attention_mode", "full"),
        (INFERENCE, "unet_additional_kwargs.use_audio_module", True),
        (INFERENCE, "unet_additional_kwargs", [1]),
        (INFERENCE, "noise_scheduler_kwargs.num_train_timesteps", 10**12),
        (INFERENCE, "noise_scheduler_kwargs.\x1b[1m", 1),
        (INFERENCE, "sampling", {"guidance_scale": float("nan")}),
        (INFERENCE, "sampling", {"guidance_scale": -1.0}),
        (INFERENCE, "sampling", {"steps": 0}),
        (INFERENCE, "sampling", {"steps": -1}),
        (INFERENCE, "sampling", {"steps": 1001}),
        (INFERENCE, "sampling", {"timesteps": [5, 9]}),
        (INFERENCE, "sampling", {"timesteps": [999, 999]}),
        (INFERENCE, "sampling", {"timesteps": [1000, 1]}),
        (INFERENCE, "sampling", {"timesteps": [1, -1]}),
    ],
)
def test_values_without_sense(folder: Path, file: str, keys: str, value: Any) -> None:
    """One line, soon, before networks are made. Sizes within the limits are compared with the weights."""
    set_value(folder, file, keys, value)
    began = thread_cpu_s()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, bucket=BUCKET)
    assert thread_cpu_s() - began < 5
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.parametrize("timesteps", [[1000, 1], [10**30], [5, 9]])
def test_what_does_not_fit_is_named_with_its_file(folder: Path, timesteps: list[int]) -> None:
    set_value(folder, INFERENCE, "sampling", {"timesteps": timesteps})
    with pytest.raises(CheckpointError, match=f"^{folder / INFERENCE}: sampling: .*timesteps"):
        load_checkpoint(folder)


NAMES = list(pairwise("abcdefghijk"))
ALIASES = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in NAMES
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 9)}]}}\n" for before, name in NAMES
)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (INFERENCE, ALIASES, "aliases"),
        (INFERENCE, MERGES, "aliases"),
        (INFERENCE, "a: !!python/object/apply:os.mkdir [sprung]", "tags"),
        *((INFERENCE, f"a: !!{tag}", "tags") for tag in ("bool x", 'int ""', "timestamp x", "float {=: x}")),
        (INFERENCE, "a: 1\nb: 2\na: 3", "each key once"),
        (INFERENCE, "a: {x: {b: 1, b: 1}}", "each key once"),
        (INFERENCE, "[" * 50_000, "too many levels"),
        (INFERENCE, "a: " + "9" * 90_000, "cannot parse it: .*digits"),
        (INFERENCE, "a: b: c\n\x1b[1m", r"cannot parse it: \S+"),
        (INFERENCE, "x" * 300_000, "expected YAML of at most 200,000 bytes, found 300,000"),
        (
            INFERENCE,
            "version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS of 43 bytes, not YAML",
        ),
        (UNET, "[" * 100_000, "too many levels"),
        (UNET, '{"a": ' * 30_000, "too many levels"),
        (UNET, '{"act_fn": ' + "9" * 90_000 + "}", "cannot parse it: .*digits"),
        (UNET, "<!DOCTYPE html><html></html>", "it is a web page"),
        (UNET, "", "it is empty"),
        (UNET, "\0" * 100, "it is 100 zero bytes"),
        (UNET, '{"a": {"x\\u001b": 1, "x\\u001b": 1}}', r"each key once, found x\\x1b twice"),
        (UNET, "[]", "expected a mapping of settings, found list"),
    ],
)
def test_documents_without_sense(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / file).write_text(content)
    began = thread_cpu_s()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert thread_cpu_s() - began < 5
    assert str(caught.value).isprintable()
    assert not (folder / "sprung").exists()


def test_a_document_with_a_byte_order_mark(folder: Path) -> None:
    """Windows' editor writes one."""
    for file in (UNET, INFERENCE):
        (folder / file).write_text((folder / file).read_text(), encoding="utf-8-sig")
    load_checkpoint(folder)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 7, 10**5, 10**9, 2**63, 10**400, 1e308, -0.5, float("nan"), float("inf"), True, False, None),
    *("", "x", "\x1b[31m\nred", "\ud800", "a" * 10_000, "1e5", [], {}, [[]], deep(50), [0], [10**9] * 3),
    *([1] * 1000, {"a": {"b": 1}}, [999, 499], [1, 2], ["DownBlock2D"] * 4),
)


def places(document: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every mapping in a document with each of its keys."""
    for key, value in document.items():
        yield document, key
        if isinstance(value, dict):
            yield from places(value)


def test_500_documents(folder: Path) -> None:
    """Valid config files with one or two values, or a few bytes, of another kind."""
    random_ = random.Random(0)
    valid = {file: read(folder / file) for file in (UNET, VAE, ENCODER, INFERENCE)}
    pieces = [b"[", b"{", b'"', b"&a ", b"*a", b"\0", b"\xff", b"- ", b": ", b"\t", b"!!binary ", b"9" * 50]
    messages = []
    for number in range(500):
        documents = copy.deepcopy(valid)
        for _ in range(random_.randint(1, 2)):
            part, key = random_.choice(list(places(random_.choice(list(documents.values())))))
            part[key if random_.random() < 0.9 else random_.choice(["new", "\x1b[1m", ""])] = random_.choice(
                HOSTILE
            )
        for file, document in documents.items():
            write(folder / file, document)
        if number % 3 == 0:
            content = bytearray((folder / (file := random_.choice(list(documents)))).read_bytes())
            at = random_.randrange(len(content))
            content[at : at + random_.randrange(4)] = random_.choice(pieces)
            (folder / file).write_bytes(content)
        try:
            model_config(
                *(folder / file for file in (UNET, VAE, ENCODER)),
                [folder / INFERENCE],
                pose_channels=(8, 16, 32, 48),
            )
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 350
    assert all(message.isprintable() and len(message) < 2000 for message in messages)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("too early")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width": 70}, ConfigError, "width: expected a multiple of 8 .* found 70; the nearest is 72"),
        ({"height": 8}, ConfigError, "height: expected a multiple of 8 of at least 64, found 8"),
        ({"window": 0}, ConfigError, "window: expected 1 to 32 frames .* found 0"),
        ({"width": 64.0}, ConfigError, r"width: expected a whole number, found 64\.0"),
        ({"window": "8"}, ConfigError, "window: expected a whole number, found 8"),
        ({"backend": ["x"]}, ConfigError, r"found \['x'\]"),
        ({"window": 99}, ConfigError, "window: expected 1 to 32 frames .* found 99"),
        ({"precision": "fp16"}, ConfigError, "precision: expected one of fp32, bf16"),
        ({"backend": "onnx"}, ConfigError, "backend: expected one of"),
        ({"bundle": "taken"}, OutputError, "taken"),
        ({"inference_config": "none.yaml"}, CheckpointError, r"none\.yaml"),
        ({"base": "none"}, InputMissing, "none: expected a checkpoint directory"),
    ],
)
def test_a_build_that_cannot_work_reads_no_weights(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Any,
    error: type[AnimateError],
    message: str,
) -> None:
    """Except for the window, whose limit is in the motion weights: of these only shapes are read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    module = animate_rt.export.checkpoints.checkpoint
    for name in ("assign", "sha256_of", *([] if "window" in options else ["read_weights"])):
        monkeypatch.setattr(module, name, never)
    before = sorted(tmp_path.iterdir())
    valid = {"checkpoint": folder, "bundle": "bundle", "width": 64, "height": 64, "window": 8}
    with pytest.raises(error, match=message):
        build_bundle(**{**valid, **options})
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def test_a_missing_backend_is_noticed_before_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise DeviceError("none")

    monkeypatch.setattr(openvino, "version", missing)
    monkeypatch.setattr(animate_rt.export.build, "load_checkpoint", never)
    with pytest.raises(DeviceError, match="none"):
        build_bundle(folder, tmp_path / "bundle", width=64, height=64, window=8)


@pytest.mark.parametrize("wrong", ["pose_guider.pth", "image_encoder/pytorch_model.bin"])
def test_all_shapes_are_compared_before_weights_are_converted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    shutil.copy(folder / "motion_module.pth", folder / wrong)
    module = animate_rt.export.checkpoints.checkpoint
    monkeypatch.setattr(module, "assign", never)
    monkeypatch.setattr(module, "sha256_of", never)
    with pytest.raises(CheckpointError, match=Path(wrong).name):
        load_checkpoint(folder)


def test_names_that_no_encoding_has(folder: Path, small: Any, tmp_path: Path) -> None:
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\x1b[1m")
    Path(folder).rename(strange)
    assert load_checkpoint(strange).weights.keys() >= {"pose_guider.pth"}
    for name, content in ((UNET, "[]"), (INFERENCE, "a: b: c"), ("pose_guider.pth", "none"), (VAE, None)):
        path = Path(strange) / name
        path.unlink()
        if content:
            path.write_text(content)
        with pytest.raises(CheckpointError, match=r"\\udcff\\n\\x1b\[1m") as caught:
            load_checkpoint(strange)
        assert str(caught.value).isprintable()
        shutil.copy(small.inference_config if name == INFERENCE else small.checkpoint / name, path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_names_that_no_file_can_have(folder: Path, tmp_path: Path, name: str) -> None:
    valid = {"checkpoint": folder, "bundle": tmp_path / "bundle", "width": 64, "height": 64, "window": 8}
    for argument in ("checkpoint", "base", "bundle", "inference_config"):
        with pytest.raises((InputMissing, CheckpointError, OutputError)) as caught:
            build_bundle(**{**valid, argument: name})
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("workspace", ["nan", "inf", "0", "-1", "1e300"])
def test_a_workspace_is_a_number_of_gigabytes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workspace: str
) -> None:
    size = ["--width", "64", "--height", "64", "--window", "8", "--backend", "tensorrt"]
    command = ["build", str(folder), str(tmp_path / "bundle"), *size, "--workspace", workspace]
    assert main(command) == 64
    assert "animate-rt: workspace: expected more than 0" in capsys.readouterr().err
