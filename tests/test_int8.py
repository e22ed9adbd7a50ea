"""Precision int8: what is quantized, what it is calibrated on, and what becomes of a build that fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pytest
from animate_rt import Animator, BuildError, BundleCorrupt, ClipOptions, ConfigError, InputError, InputMissing
from animate_rt.__main__ import main
from animate_rt.engines.bundle import new_bundle, open_bundle, seal
from animate_rt.engines.contract import DENOISING_UNET
from animate_rt.engines.cpu.quantized_layers import ATTENTION, FIRST, LAST, QuantizedLayers
from animate_rt.engines.inspect import report
from animate_rt.engines.manifest import WEIGHTS
from animate_rt.engines.precision import PRECISIONS, QUANTIZED
from animate_rt.engines.verify import check, verify
from animate_rt.export import build_bundle, quantization
from animate_rt.export.calibration import SHIPPED, CalibrationClip, find_clip, find_clips, record_calls
from animate_rt.export.quantization import quantize_graphs
from animate_rt.export.weight_file import WeightFile
from animate_rt.runtime.shots.marking import lossy
from PIL import Image

from .clips import render
from .manifests import list_files_again
from .sharing import alone, shared_folder
from .test_animator import psnr
from .test_driving import moving


def quantized(small_bundle: Path, target: Path, clips: list[CalibrationClip], progress: Any = print) -> Path:
    """A copy of the bundle in int8, as `build` makes it, but without exporting its graphs again."""
    with new_bundle(target) as folder:
        shutil.copytree(small_bundle, folder, dirs_exist_ok=True)
        manifest = replace(
            open_bundle(small_bundle).manifest,
            precision="int8",
            calibration={clip.path.name: clip.digest for clip in clips},
        )
        with (folder / WEIGHTS).open("ab") as weights:
            memory = quantize_graphs(folder, manifest, WeightFile(weights), clips, progress)
        seal(folder, replace(manifest, memory=manifest.memory | memory))
    return target


@pytest.fixture(scope="session")
def int8(small: Any, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded case in int8, calibrated on its own clip and on the demo's, made once per run."""
    path = shared_folder(tmp_path_factory) / "int8"
    with alone(path):
        return path if path.is_dir() else quantized(small_bundle, path, find_clips([small.path, SHIPPED]))


@pytest.mark.slow
def test_the_command_builds_it(small: Any, int8: Path, tmp_path: Path) -> None:
    named = {name.replace("_", "-"): value for name, value in small.build_options.items()}
    options = [part for name, value in named.items() for part in (f"--{name}", str(value))]
    command = ["build", str(small.checkpoint), str(tmp_path / "bundle"), *options, "--precision", "int8"]
    assert main([*command, "--calibration", str(small.path), str(SHIPPED)]) == 0
    built, expected = (open_bundle(path).manifest for path in (tmp_path / "bundle", int8))
    assert built.precision == "int8"
    assert built.calibration == expected.calibration
    for graph in built.graphs.keys() & set(QUANTIZED):  # the others of the copy state their memory in float32
        assert built.memory[graph] == expected.memory[graph]


def test_only_the_unets_are_quantized(int8: Path) -> None:
    opened, weights = open_bundle(int8), (int8 / WEIGHTS).stat().st_size
    for graph in opened.manifest.graphs:
        num_quantized, left = QuantizedLayers.read(opened.engine(graph), weights).table()
        if graph not in QUANTIZED:
            assert num_quantized == 0
            continue
        assert num_quantized > 100
        assert left.keys() == {ATTENTION, FIRST, LAST}
        assert (len(left[FIRST]), len(left[LAST])) == (1, 1)


def test_it_is_lossy_within_its_tolerance(int8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_bundle(int8)
    comparisons = verify(opened)
    check(opened, comparisons)
    unets = [each for each in comparisons if each.graph in QUANTIZED]
    worst = max(each.relative for each in unets)
    with capsys.disabled():
        print(f"\nint8 against ONNX Runtime: {worst:.1e}")
    assert len(unets) == 2
    assert PRECISIONS["fp32"].tolerance < worst
    assert {each.tolerance for each in unets} == {PRECISIONS["int8"].tolerance}
    assert {each.tolerance for each in comparisons if each not in unets} == {PRECISIONS["bf16"].tolerance}


def test_frames_are_close_and_the_same_in_any_number_of_streams(int8: Path, small_bundle: Path) -> None:
    with Animator.load(small_bundle) as animator:
        truth, plain_truth = render(animator), render(animator, guidance_scale=1.0)
    with Animator.load(int8) as animator:
        frames = render(animator)
        plain = render(animator, guidance_scale=1.0)
    with Animator.load(int8, denoise_streams=2) as animator:
        assert np.array_equal(render(animator), frames)
    assert 25 < psnr(frames / 255, truth / 255) < 60
    assert 25 < psnr(plain / 255, plain_truth / 255) < 60


def test_the_bundle_says_what_it_was_calibrated_on(int8: Path, small: Any) -> None:
    opened = open_bundle(int8)
    assert opened.manifest.calibration.keys() == {small.path.name, "demo"}
    assert opened.manifest.calibration[small.path.name] == find_clip(small.path).digest
    text = report(opened)
    assert f"calibrated on {small.path.name}" in text
    assert "int8 (lossy: convolutions and linear layers of the denoising UNet in 8 bits)" in text
    assert "in float (attention: multiplies two tensors of the clip): " in text
    assert opened.manifest.rebuild_command.endswith(" --precision int8 --calibration CLIP...")


def test_a_result_says_that_it_is_lossy(int8: Path, small: Any, tmp_path: Path) -> None:
    inputs = ["--reference", str(small.reference), "--pose", str(small.pose)]
    output = tmp_path / "out.mp4"
    arguments = [*inputs, "--steps", "1", "--frames", "2", "--output", str(output)]
    assert main(["animate", str(int8), *arguments]) == 0
    (sidecar,) = tmp_path.glob("*.json")
    assert json.loads(sidecar.read_bytes())["lossy"] == ["precision int8"]


def test_options_that_trade_accuracy_for_speed(int8: Path, small_bundle: Path) -> None:
    cached = ClipOptions(cache_interval=3)
    assert lossy(open_bundle(small_bundle), ClipOptions()) == []
    assert lossy(open_bundle(small_bundle), cached) == ["cache_interval 3"]
    assert lossy(open_bundle(int8), cached) == ["precision int8", "cache_interval 3"]


def test_each_call_of_a_clip_is_recorded(small_bundle: Path, small: Any, tmp_path: Path) -> None:
    seen: list[str] = []
    calls = record_calls(small_bundle, [find_clip(small.path)] * 2, tmp_path, seen.append)
    opened = open_bundle(small_bundle)
    steps = min(10, opened.manifest.model.sampling.steps)
    assert len(calls) == 2 * steps
    assert seen[-1] == f"clip 2 of 2, task {steps} of {steps}"
    for spec in opened.manifest.graphs[DENOISING_UNET].inputs:
        arrays = [np.load(tmp_path / call[spec.name]) for call in calls]
        assert {array.shape for array in arrays} == {spec.shape}
        assert {str(array.dtype) for array in arrays} == {spec.dtype}
    assert calls[0]["key_0"] == calls[-1]["key_0"]  # equal arrays are written once
    assert len({call["latents"] for call in calls}) == steps  # the second clip is the first again


def test_a_video_of_a_person_is_a_clip(
    small_bundle: Path,
    tmp_path: Path,
    mediapipe_models: Path,
    astronaut: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache" / "animate-rt"
    cache.mkdir(parents=True)
    (cache / "models").symlink_to(mediapipe_models)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip = find_clip(moving(astronaut, tmp_path / "dance.mp4"))
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    still = tmp_path / "still"
    (still / "pose").mkdir(parents=True)
    Image.new("RGB", (64, 96)).save(still / "pose" / "0.png")
    astronaut.save(still / "reference.png")
    calls = record_calls(small_bundle, [clip, find_clip(still)], recorded, lambda _what: None)
    features = [np.load(recorded / call["pose_features"])[0] for call in (calls[0], calls[-1])]
    assert not np.array_equal(*features)  # those of a skeleton, and those of no person


def test_clips_that_cannot_be_used(small: Any, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"expected a calibration clip: No such file or directory$"):
        find_clip(tmp_path / "none")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "reference.png").write_bytes(small.reference.read_bytes())
    with pytest.raises(ConfigError, match=r"^calibration: expected at most 64 clips, found 65$"):
        find_clips(65 * [small.path])
    with pytest.raises(InputMissing, match=r"null"):
        find_clip(Path("a\0"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4"):
        find_clips([tmp_path / "text.mp4"])
    with pytest.raises(InputError, match=r"pose frames named pose, .* found reference\.png$"):
        find_clip(tmp_path / "clip")
    with pytest.raises(ConfigError, match=r"^calibration: expected clips .* names, found small twice$"):
        find_clips([small.path, small.path])
    with pytest.raises(
        ConfigError, match=r"^calibration: expected only with precision int8, found with fp32$"
    ):
        build_bundle(
            small.checkpoint, tmp_path / "bundle", width=64, height=96, window=6, calibration=[small.path]
        )


def test_a_build_that_is_stopped_leaves_nothing(small: Any, small_bundle: Path, tmp_path: Path) -> None:
    def stop(what: str) -> None:
        if what.startswith("quantize denoising_unet: pass 1, call 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantized(small_bundle, tmp_path / "bundle", [find_clip(small.path)], stop)
    assert not list(tmp_path.iterdir())


def test_an_error_of_nncf_is_told(
    small: Any, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "with_guidance", lambda *_given: [{"latents": "none.npy"}])
    with pytest.raises(BuildError, match=r"^denoising_unet: NNCF ended with status 1: .*Error"):
        quantized(small_bundle, tmp_path / "bundle", [find_clip(small.path)])
    assert not list(tmp_path.iterdir())


LOADING = """
import sys
calls = []
sys.addaudithook(lambda event, _given: calls.append(event) if event.startswith("socket.") else None)
from animate_rt.export.quantization import import_nncf
import_nncf().quantize
from nncf.telemetry import wrapper
assert not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)
assert not calls, calls
"""


def test_nncf_uses_no_network() -> None:
    subprocess.run([sys.executable, "-c", LOADING], check=True)


def test_layers_of_a_graph_from_a_stranger(int8: Path, tmp_path: Path) -> None:
    for name, old, new in (
        ("unknown", b'from-layer="1"', b'from-layer="no"'),
        ("no-port", b" to-port=", b" port="),
        ("no-id", b' id="1"', b""),
    ):
        copy = Path(shutil.copytree(int8, tmp_path / name))
        engine = copy / "engines" / f"{DENOISING_UNET}.xml"
        assert old in engine.read_bytes()
        engine.write_bytes(engine.read_bytes().replace(old, new))
        list_files_again(copy)
        with pytest.raises(BundleCorrupt, match=r"expected layers and edges of OpenVINO, found others"):
            report(open_bundle(copy))


def test_layers_of_a_large_graph() -> None:
    """A stranger's graph may have the most layers that a file may: a long chain that many layers read."""
    kinds = ["Parameter", "FakeQuantize", *60_000 * ["Reshape"], *60_000 * ["MatMul"]]
    chain = [(i, i + 1) for i in range(60_001)]
    edges = [*chain, *((60_001, i) for i in range(60_002, 120_002)), (120_001, 2)]  # and back
    net = Element("net")
    for i, kind in enumerate(kinds):
        SubElement(net, "layer", {"id": str(i), "name": f"{i}", "type": kind})
    for read, reader in edges:
        SubElement(net, "edge", {"from-layer": str(read), "to-layer": str(reader), "to-port": "0"})
    began = time.process_time()
    assert QuantizedLayers(net).table() == (60_000, {})
    assert time.process_time() - began < 20


def test_manifests_with_other_calibrations(int8: Path) -> None:
    manifest = open_bundle(int8).manifest
    for wrong in ({"a\nb": "0" * 64}, {"a": "x" * 201}, {str(i): "" for i in range(65)}):
        with pytest.raises(ConfigError, match=r"^manifest: expected"):
            replace(manifest, calibration=wrong)
    for changed in ({"calibration": {}}, {"precision": "fp32"}, {"backend": "tensorrt"}):
        with pytest.raises(ConfigError, match=r"^manifest: expected (calibration clips|backend openvino) in"):
            replace(manifest, **changed)
