"""`animate-rt build-poses`: files recognised by inputs and outputs, and one line for everything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from animate_rt.__main__ import main
from animate_rt.engines.bundle import MANIFEST
from animate_rt.engines.files import hashed
from animate_rt.engines.pose_bundle import open_pose_bundle
from animate_rt.errors import CheckpointError, ConfigError, InputMissing, OutputError
from animate_rt.export.pose_bundle import MAX_NETWORK, build_pose_bundle
from animate_rt.runtime.poses.extraction.extract import extract, open_models

from .square_networks import picture, places, save_detector, save_landmarks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "networks"
    folder.mkdir()
    save_detector(folder / "yolox_l.onnx")
    save_landmarks(folder / "dw-ll_ucoco_384.onnx", 288, 384, "simcc")
    return folder


def works(bundle: Path) -> None:
    person = (300, 200, 24)
    models = open_models(bundle)
    (pose,) = extract([picture(person)], models)
    models.close()
    assert np.abs(pose[0, :2] - places(person)[0]).max() <= 4


def changed(path: Path, change: Any, **options: Any) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path, **options)


def test_a_bundle_says_what_it_was_made_of(folder: Path, tmp_path: Path, capsys: Any) -> None:
    bundle = tmp_path / "poses"
    assert main(["build-poses", str(folder), str(bundle)]) == 0
    assert capsys.readouterr().out == f"{bundle}\n"
    manifest = open_pose_bundle(bundle).manifest
    networks = manifest.networks
    assert (networks.detector_side, networks.width, networks.height) == (416, 288, 384)
    assert (networks.kind, manifest.backend, manifest.precision) == ("simcc", "openvino", "fp32")
    assert manifest.weights == {
        "detector": hashed(folder / "yolox_l.onnx").file.sha256,
        "landmarks": hashed(folder / "dw-ll_ucoco_384.onnx").file.sha256,
    }
    assert sorted(manifest.files) == [
        "engines/detector.xml",
        "engines/landmarks.xml",
        "graphs/detector.onnx",
        "graphs/landmarks.onnx",
        "graphs/weights.bin",
    ]
    works(bundle)


def test_an_older_bundle_is_replaced_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "poses"
    build_pose_bundle(folder, bundle)
    save_detector(folder / "yolox_l.onnx", 640)
    build_pose_bundle(folder, bundle)
    assert open_pose_bundle(bundle).manifest.networks.detector_side == 640
    works(bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="expected a new name or an existing bundle"):
        build_pose_bundle(folder, tmp_path / "mine")


def test_names_do_not_matter_and_folders_may_be_nested(folder: Path, tmp_path: Path) -> None:
    (folder / "pose2d").mkdir()
    (folder / "yolox_l.onnx").rename(folder / "pose2d" / "a.onnx")
    (folder / "dw-ll_ucoco_384.onnx").rename(folder / "end2end.onnx")
    build_pose_bundle(folder, tmp_path / "poses")
    works(tmp_path / "poses")


def test_a_batch_of_any_size_becomes_one(folder: Path, tmp_path: Path) -> None:
    save_landmarks(folder / "dw-ll_ucoco_384.onnx", 288, 384, "simcc", batch="batch")
    build_pose_bundle(folder, tmp_path / "poses")
    works(tmp_path / "poses")


def test_weights_listed_as_inputs_are_weights(folder: Path, tmp_path: Path) -> None:
    def old(model: Any) -> None:
        for weight in model.graph.initializer:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            )

    for path in folder.glob("*.onnx"):
        changed(path, old)
    build_pose_bundle(folder, tmp_path / "poses")
    works(tmp_path / "poses")


def test_weights_may_lie_beside_the_file(folder: Path, tmp_path: Path) -> None:
    changed(
        folder / "dw-ll_ucoco_384.onnx",
        lambda _model: None,
        save_as_external_data=True,
        location="end2end.data",
        size_threshold=0,
    )
    assert (folder / "end2end.data").stat().st_size > 100_000
    build_pose_bundle(folder, tmp_path / "poses")
    works(tmp_path / "poses")


def test_names_of_the_contract_may_be_taken_inside_a_graph(folder: Path, tmp_path: Path) -> None:
    def taken(model: Any) -> None:
        names = dict(
            zip((node.output[0] for node in model.graph.node), ("picture", "boxes", "person"), strict=False)
        )
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]

    for path in folder.glob("*.onnx"):
        changed(path, taken)
    build_pose_bundle(folder, tmp_path / "poses")
    works(tmp_path / "poses")


def fails(folder: Path, tmp_path: Path, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        build_pose_bundle(folder, tmp_path / "poses")
    assert str(caught.value).isprintable()
    assert not [entry for entry in tmp_path.iterdir() if entry != folder]


def test_a_directory_without_networks_is_one_line(tmp_path: Path) -> None:
    fails(tmp_path / "nothing", tmp_path, InputMissing, "expected a directory with ONNX files, found none")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, tmp_path, InputMissing, "expected ONNX files of a YOLOX detector.*found no ONNX files")


def test_one_network_of_each_kind_is_needed(folder: Path, tmp_path: Path) -> None:
    save_detector(folder / "yolox_s.onnx")
    fails(
        folder,
        tmp_path,
        CheckpointError,
        r"expected one file of each.*yolox_s\.onnx \(1,3,416,416; 1,3549,85\)",
    )
    (folder / "yolox_s.onnx").unlink()
    (folder / "yolox_l.onnx").unlink()
    fails(folder, tmp_path, CheckpointError, r"expected one file of each.*1,133,576; 1,133,768")


@pytest.mark.parametrize("content", [b"", b"\x00" * 1000, b"<html>Not found</html>", b"\x08\x07" * 500])
def test_files_that_are_no_networks_are_one_line(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "dw-ll_ucoco_384.onnx").write_bytes(content)
    fails(folder, tmp_path, CheckpointError, "expected")


def test_a_truncated_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    path = folder / "dw-ll_ucoco_384.onnx"
    path.write_bytes(path.read_bytes()[:-5000])
    fails(folder, tmp_path, CheckpointError, "expected an ONNX file, cannot read it")


def test_weights_outside_the_directory_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "dw-ll_ucoco_384.onnx"
    changed(path, lambda _model: None, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"
    path.write_bytes(model.SerializeToString())
    (folder / "w.bin").rename(folder.parent / "secret.bin")
    with pytest.raises(CheckpointError, match=r"expected all weights in the directory|cannot read it"):
        build_pose_bundle(folder, tmp_path / "poses")
    assert not (tmp_path / "poses").exists()


def test_weights_of_a_node_outside_the_directory_are_refused(folder: Path, tmp_path: Path) -> None:
    """A constant's value can be in another file too, which must not become part of the bundle."""
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4)
    path = folder / "dw-ll_ucoco_384.onnx"
    model = onnx.load(path)
    tensor = onnx.TensorProto(name="secret", data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["secret"], value=tensor))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"all weights in the directory, found \.\./secret\.bin"):
        build_pose_bundle(folder, tmp_path / "poses")
    assert not (tmp_path / "poses").exists()


def test_a_huge_file_is_refused_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    os.truncate(folder / "dw-ll_ucoco_384.onnx", MAX_NETWORK + 1)
    fails(folder, tmp_path, CheckpointError, "expected at most 1024 MiB, found 1025; export it with its")


def test_missing_weights_are_one_line(folder: Path, tmp_path: Path) -> None:
    path = folder / "dw-ll_ucoco_384.onnx"
    changed(path, lambda _model: None, save_as_external_data=True, location="w.bin", size_threshold=0)
    os.truncate(folder / "w.bin", 10)
    fails(folder, tmp_path, CheckpointError, "cannot read it")
    (folder / "w.bin").unlink()
    fails(folder, tmp_path, CheckpointError, r"expected its weights in w\.bin, found none")


@pytest.mark.parametrize(
    ("side", "value", "match"),
    [
        (("output", 0, 1), 17, "expected one file of each"),
        (("output", 0, 2), 288, "expected simcc_x of"),
        (("input", 0, 1), 4, "expected one file of each"),
        (("input", 0, 0), 8, "expected one file of each"),
        (("input", 0, 3), 6000, "width: expected a multiple of 4"),
    ],
)
def test_other_shapes_are_one_line(folder: Path, tmp_path: Path, side: Any, value: int, match: str) -> None:
    group, index, axis = side

    def other(model: Any) -> None:
        getattr(model.graph, group)[index].type.tensor_type.shape.dim[axis].dim_value = value

    changed(folder / "dw-ll_ucoco_384.onnx", other)
    fails(folder, tmp_path, CheckpointError, match)


def test_half_precision_is_one_line(folder: Path, tmp_path: Path) -> None:
    def half(model: Any) -> None:
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    changed(folder / "dw-ll_ucoco_384.onnx", half)
    fails(folder, tmp_path, CheckpointError, "expected float32")


def test_options_of_the_other_backend_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backend: expected one of openvino, tensorrt"):
        build_pose_bundle(folder, tmp_path / "poses", backend="cuda")  # type: ignore[arg-type]
    assert main(["build-poses", str(folder), str(tmp_path / "poses"), "--optimization-level", "1"]) == 64


def test_a_build_that_is_stopped_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    for step in ("read", "write detector", "seal", "compile landmarks"):

        def stop(what: str, step: str = step) -> None:
            if what.startswith(step):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_pose_bundle(folder, tmp_path / "poses", progress=stop)
        assert list(tmp_path.iterdir()) == [folder]


def test_plans_are_built_for_tensorrt(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="its wheels exist for Linux and Windows on x86-64 only")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build_pose_bundle(folder, tmp_path / "poses", backend="tensorrt")
    document = json.loads((tmp_path / "poses" / MANIFEST).read_text())
    assert document["backend"] == "tensorrt"
    assert {"engines/detector.plan", "engines/landmarks.plan"} <= document["files"].keys()
    assert open_pose_bundle(tmp_path / "poses").manifest.compute_capabilities


def test_torch_is_not_needed(folder: Path, tmp_path: Path) -> None:
    command = ["build-poses", str(folder), str(tmp_path / "poses")]
    code = f"""
import sys
sys.modules["torch"] = None
from animate_rt.__main__ import main
sys.exit(main({command!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    works(tmp_path / "poses")
