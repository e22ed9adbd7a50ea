"""TensorRT plans, really built: float16, no GPU, all graphs of a small model."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from animate_rt import Animator, BuildError, DeviceError
from animate_rt.benchmarks.random_checkpoint import write_random_checkpoint
from animate_rt.engines import tensorrt
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import Contract, TensorSpec
from animate_rt.export import build_bundle
from animate_rt.export.layers import Attention, attend
from animate_rt.export.onnx_graphs import export_graph
from torch import Tensor, nn

pytest.importorskip("tensorrt_rtx", reason="its wheels exist for Linux and Windows on x86-64 only")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A float16 bundle of a small model with heads of width 16 and 32, and the seconds it took."""
    folder = tmp_path_factory.mktemp("tensorrt")
    write_random_checkpoint(folder / "checkpoint", "tiny")
    seconds: dict[str, float] = {}
    began = ["", 0.0]

    def progress(what: str) -> None:
        seconds[str(began[0])] = time.monotonic() - float(began[1])
        began[:] = what, time.monotonic()

    build_bundle(
        folder / "checkpoint",
        folder / "bundle",
        width=64,
        height=96,
        window=4,
        backend="tensorrt",
        inference_config=folder / "checkpoint" / "inference.yaml",
        progress=progress,
    )
    return folder / "bundle", seconds


def test_all_graphs_build_without_a_gpu(
    built: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, seconds = built
    bundle = open_bundle(path)
    with capsys.disabled():
        print()
        for graph in bundle.manifest.graphs:
            plan = path / "engines" / f"{graph}.plan"
            assert plan.stat().st_size > 10_000
            print(f"{graph:28} {plan.stat().st_size / 1e6:6.1f} MB {seconds[f'compile {graph}']:5.1f} s")
    assert bundle.manifest.precision == "fp16"
    assert bundle.manifest.backend_version == tensorrt.version()
    assert bundle.manifest.compute_capabilities == tensorrt.compute_capabilities()


def test_wide_heads_export_the_fused_operator_and_the_vae_does_not(
    built: tuple[Path, dict[str, float]],
) -> None:
    def count(graph: str, operator: str) -> int:
        model = onnx.load(built[0] / "graphs" / f"{graph}.onnx", load_external_data=False)
        return sum(node.op_type == operator for node in model.graph.node)

    manifest = open_bundle(built[0]).manifest
    spatial = len(manifest.model.spatial_attentions())
    temporal = 2 * (manifest.model.unet.layers_per_block * 8 + 5)
    assert count("denoising_unet_conditional", "Attention") == spatial + temporal
    assert count("denoising_unet", "Attention") == 2 * spatial + temporal
    assert count("denoising_unet", "Softmax") == 0
    assert count("image_encoder", "Attention") > 0


@pytest.mark.parametrize("graph", ["denoising_unet", "reference_net", "vae_decoder"])
def test_float16_graphs_do_their_products_in_float16(
    built: tuple[Path, dict[str, float]], graph: str
) -> None:
    """Float32 is left to what is explicitly so: norms, softmax, guidance, the time embedding."""
    model = onnx.load(built[0] / "graphs" / f"{graph}.onnx", load_external_data=False)
    model = onnx.shape_inference.infer_shapes(model)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    } | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Conv", "Attention")]
    assert len(products) > 20
    for node in products:
        assert types[node.input[0]] == types[node.input[1]] == onnx.TensorProto.FLOAT16, node.name


def test_a_graph_that_cannot_be_built_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BuildError, match=r"broken\.onnx: TensorRT ended with status 1: .*\w") as caught:
        tensorrt.build_plan(tmp_path / "broken.onnx", tmp_path / "broken.plan")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "broken.plan").exists()


class SharedQuery(nn.Module):
    """Two Attention operators that share a query, which brings the builder of TensorRT-RTX 1.7 down."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(32, heads=2)

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        query, own = self.attention.query(x), self.attention.key(x)
        both = torch.cat([own, key.expand(4, -1, -1, -1)], dim=2)
        halves = [attend(query, own, own), attend(query, both, both)]
        return self.attention.output(torch.cat(halves))


def test_a_builder_that_crashes_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    contract = Contract(
        (TensorSpec("x", "float16", (4, 16, 32)), TensorSpec("key", "float16", (1, 2, 16, 16))),
        (TensorSpec("y", "float16", (8, 16, 32)),),
    )
    ir.save(export_graph("crash", SharedQuery().half(), contract), tmp_path / "crash.onnx")
    with pytest.raises(BuildError, match=r"crash\.onnx: TensorRT ended with signal \d+"):
        tensorrt.build_plan(tmp_path / "crash.onnx", tmp_path / "crash.plan")


def test_running_plans_is_refused_in_words(built: tuple[Path, dict[str, float]]) -> None:
    with pytest.raises(DeviceError, match="--backend openvino"):
        Animator.load(built[0])
