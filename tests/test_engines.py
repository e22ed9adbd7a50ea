"""OpenVINO engines against recorded tensors and ONNX Runtime, and their bindings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from animate_rt import ConfigError
from animate_rt.engines.backends import load_engine
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import DType
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.engine import Engine
from animate_rt.runtime.media.picture import read_picture, square
from numpy.typing import NDArray

BAR = 1e-3  # relative to the largest value, against recorded tensors
ORACLE = 1e-4  # relative to the largest value, against ONNX Runtime on the same graph

Array = NDArray[Any]


class Engines:
    """`engines(graph, **inputs)`: the outputs of a graph. Each engine is loaded once."""

    def __init__(self, path: Path, run: Any):
        self.bundle = open_bundle(path)
        self.run = run
        self.loaded: dict[str, Engine] = {}

    def __call__(self, graph: str, **inputs: Array) -> dict[str, Array]:
        if graph not in self.loaded:
            self.loaded[graph] = load_engine(self.bundle, graph, CPUDevice())
        outputs: dict[str, Array] = self.run(self.loaded[graph], **inputs)
        return outputs


@pytest.fixture(scope="module")
def engines(bundle: Path, run_engine: Any) -> Engines:
    return Engines(bundle, run_engine)


def error(found: Array, expected: Array) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_image_embeds(engines: Engines, case: Any) -> None:
    image = square(read_picture(case.reference), 224)[None]
    found = engines("image_encoder", image=image)["image_embeds"]
    assert error(found, case.io["image_embeds"]) <= BAR


def test_reference_latents(engines: Engines, case: Any) -> None:
    found = engines("vae_encoder", image=case.io["reference_image"][None])["latents"]
    assert error(found, case.io["reference_latents"]) <= BAR


def test_pose_features(engines: Engines, case: Any) -> None:
    found = [engines("pose_guider", frame=frame[None])["pose_features"] for frame in case.io["pose_frames"]]
    assert error(np.concatenate(found), case.io["pose_features"][0].swapaxes(0, 1)) <= BAR


def test_decoded_frames(engines: Engines, case: Any) -> None:
    latents = np.ascontiguousarray(case.io["final_latents"][0].swapaxes(0, 1))
    found = [engines("vae_decoder", latents=frame[None])["frame"] for frame in latents]
    expected = case.io["video"][0].transpose(1, 2, 3, 0)
    assert np.abs(np.concatenate(found) / 255 - expected).max() <= 0.5 / 255 + BAR


@pytest.mark.parametrize("scale", [None, 0.0, 3.5])
def test_unet_output(engines: Engines, case: Any, scale: float | None) -> None:
    io = case.io
    reference = engines("reference_net", latents=io["reference_latents"], image_embeds=io["image_embeds"])
    inputs = {
        "latents": np.ascontiguousarray(io["unet_sample"][0].swapaxes(0, 1)),
        "pose_features": np.ascontiguousarray(io["unet_pose"][0].swapaxes(0, 1)),
        "num_frames": np.array([case.window], np.int32),
        **engines("time_embedding", timestep=io["unet_timestep"].astype(np.float32)),
        **reference,
    }
    unconditional, conditional = (row.swapaxes(0, 1) for row in io["unet_output"])
    if scale is None:
        found = engines("denoising_unet_conditional", **inputs)["prediction"]
        assert error(found, conditional) <= BAR
    else:
        inputs["guidance_scale"] = np.array([scale], np.float32)
        found = engines("denoising_unet", **inputs)["prediction"]
        assert error(found, unconditional + scale * (conditional - unconditional)) <= BAR


@pytest.mark.parametrize(
    "graph", ["image_encoder", "reference_net", "time_embedding", "denoising_unet", "vae_decoder"]
)
def test_openvino_agrees_with_onnx_runtime(engines: Engines, graph: str) -> None:
    chance = np.random.default_rng(0)
    contract = engines.bundle.manifest.graphs[graph]
    inputs = {}
    for spec in contract.inputs:
        buffer = np.zeros(spec.shape, np.dtype(spec.dtype))
        if spec.dtype == "float32":
            buffer[:] = chance.standard_normal(spec.shape)
        elif spec.dtype == "uint8":
            buffer[:] = chance.integers(0, 256, spec.shape)
        else:
            buffer[:] = 3
        inputs[spec.name] = buffer
    session = onnxruntime.InferenceSession(engines.bundle.graph(graph), providers=["CPUExecutionProvider"])
    expected = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
    found = engines(graph, **inputs)
    for spec in contract.outputs:
        if spec.dtype == "uint8":
            off = np.abs(found[spec.name].astype(int) - expected[spec.name])
            assert off.max() <= 1
            assert off.mean() < 1e-3
        else:
            assert error(found[spec.name], expected[spec.name]) <= ORACLE, spec.name


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float16", (1, 4, 12, 8)), ("float32", (1, 4, 8, 12)), ("float32", (2, 4, 12, 8))]
)
def test_binding_refuses_other_dtypes_and_shapes(
    small_bundle: Path, dtype: DType, shape: tuple[int, ...]
) -> None:
    device = CPUDevice()
    context = load_engine(open_bundle(small_bundle), "vae_decoder", device).context(None)
    with pytest.raises(ConfigError, match=r"latents: expected float32 \(1, 4, 12, 8\), found"):
        context.bind("latents", device.buffer(dtype, shape))


def test_results_are_in_the_bound_buffers(small_bundle: Path) -> None:
    """A run writes into the bound output buffers; it returns nothing."""
    device = CPUDevice()
    stream = device.stream("test")
    engine = load_engine(open_bundle(small_bundle), "time_embedding", device)
    context = engine.context(None)
    specs = (*engine.contract.inputs, *engine.contract.outputs)
    timestep, row = (device.buffer(spec.dtype, spec.shape) for spec in specs)
    assert timestep.array is not None
    assert row.array is not None
    context.bind("timestep", timestep)
    context.bind("time_row", row)
    rows = []
    for value in (1.0, 999.0, 1.0):
        timestep.array[:] = value
        context.enqueue(stream)
        stream.record().synchronize()
        rows.append(row.array.copy())
    assert np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])
    assert engine.runs == 3


def test_loading_imports_no_telemetry(small_bundle: Path) -> None:
    """OpenVINO by default imports its converter, which sends telemetry and writes to HOME."""
    script = f"""
import sys
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.backends import load_engine, open_device
load_engine(open_bundle({os.fspath(small_bundle)!r}), "time_embedding", open_device("openvino"))
assert "openvino" in sys.modules
print([name for name in sys.modules if "telemetry" in name or "ovc" in name])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_that_import_openvino_do_not_wait_for_each_other() -> None:
    """A third of the processes whose threads asked for their first type at the same time never ended."""
    program = """
import os, sys, threading
from animate_rt.engines.cpu.openvino import import_openvino

sys.setswitchinterval(1e-6)
together = threading.Barrier(4)

def ask():
    openvino = import_openvino()
    together.wait()
    openvino.Type.f32.to_dtype()

threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
os._exit(any(thread.is_alive() for thread in threads))
"""
    for _ in range(6):
        done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
        assert done.returncode == 0
