"""The planned device memory of a clip against what it allocates."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from animate_rt import Animator, ClipOptions, OutOfMemory
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import REFERENCE
from animate_rt.engines.cpu import openvino
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.export.graph_memory import CODE_BYTES, memory_of
from animate_rt.runtime.clip.memory_plan import plan_memory
from animate_rt.runtime.streams import session

from .arithmetic import ArithmeticEngine


@pytest.mark.parametrize("num_frames", [3, 40, 61])
@pytest.mark.parametrize(
    ("windows", "order", "solver"),
    [("uniform", "step-major", "ddim"), ("open", "time-skewed", "ddim"), ("uniform", "step-major", "unipc")],
)
def test_the_plan_is_close_to_what_is_allocated(
    small_bundle: Path, windows: str, order: str, solver: Any, num_frames: int
) -> None:
    bundle = open_bundle(small_bundle)
    options = ClipOptions(steps=4, solver=solver, overlap=2, windows=windows, order=order)
    plan = plan_memory(bundle, options.resolve(bundle.manifest), num_frames)
    pose = list(np.zeros((num_frames, 96, 64, 3), np.uint8))
    with Animator(bundle, load=ArithmeticEngine) as animator:
        clip = animator.animate(pose[0], pose, options)
        assert sum(1 for _ in clip) == num_frames
        taken = animator.session.pool.allocated_bytes
    assert plan.weights
    assert plan.activations
    buffers = plan.total - plan.weights - plan.activations
    # Segments at the end of a clip have other lengths, which no free buffer fits.
    assert buffers <= taken + 8 <= 1.3 * buffers


def test_weights_are_those_of_the_graphs(small_bundle: Path) -> None:
    """In the precision that is computed in, with the machine code of the operations."""
    manifest = open_bundle(small_bundle).manifest
    for graph, memory in manifest.memory.items():
        root = ElementTree.parse(small_bundle / manifest.engine(graph)).getroot()
        halved = memory_of(root, "bf16")
        operations = [layer for layer in root.iter("layer") if layer.get("type") != "Const"]
        numbers = 4 * parameters(small_bundle / "graphs" / f"{graph}.onnx")
        assert numbers <= memory.weights <= 1.2 * numbers + CODE_BYTES * len(operations)
        assert halved.weights < memory.weights
        assert halved.activations < memory.activations
        assert memory.loading >= numbers / 2


def parameters(path: Path) -> int:
    initializers = onnx.load(path, load_external_data=False).graph.initializer
    return sum(prod(tensor.dims) for tensor in initializers if tensor.external_data)


def test_activations_are_those_that_live_at_once() -> None:
    """x and two results of 4 kB; the sum is written over one of them."""
    port = '<port id="0" precision="FP32"><dim>1000</dim></port>'
    kinds = ["Parameter", "Sin", "Cos", "Add", "Sin", "Result"]
    layers = "".join(
        f'<layer id="{i}" type="{kind}"><output>{port}</output></layer>' for i, kind in enumerate(kinds)
    )
    edges = "".join(
        f'<edge from-layer="{a}" to-layer="{b}" to-port="{a}"/>'
        for a, b in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5))
    )
    graph = ElementTree.fromstring(f"<net><layers>{layers}</layers><edges>{edges}</edges></net>")
    assert memory_of(graph, "fp32").activations == 8000
    assert memory_of(graph, "bf16").activations == 4000


def test_large_models_state_what_stays_loaded(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(small_bundle)
    settings = ClipOptions(steps=1).resolve(bundle.manifest)
    kept = plan_memory(bundle, settings, 6)
    monkeypatch.setattr(session, "KEPT_BYTES", -1)
    large = plan_memory(bundle, settings, 6)
    encoders = sum(bundle.manifest.memory[graph].weights for graph in REFERENCE)
    assert (kept.weights or 0) - (large.weights or 0) == encoders == large.encoders
    assert kept.encoders == 0
    assert (kept.loading or 0) > (large.loading or 0) > (large.weights or 0) > 0


def test_a_bundle_without_room_is_refused_before_it_is_loaded(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(small_bundle)
    plan = plan_memory(bundle, ClipOptions().resolve(bundle.manifest), 6)
    monkeypatch.setattr(CPUDevice, "free_bytes", lambda _device: int(plan.total / 1.3))
    monkeypatch.setattr(openvino, "load_graph", None)
    with pytest.raises(OutOfMemory, match=r"expected [\d.]+ MB of free memory, found [\d.]+ MB; close"):
        Animator.load(small_bundle)
    monkeypatch.undo()
    Animator.load(small_bundle).close()
