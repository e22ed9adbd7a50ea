"""TensorRT plans, built by TensorRT-RTX without a GPU: all graphs of a small model in float16."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from animate_rt import BuildError, ConfigError
from animate_rt.benchmarks.random_checkpoint import write_random_checkpoint
from animate_rt.engines import verify
from animate_rt.engines.build_process import GRACE_S
from animate_rt.engines.bundle import open_bundle, seal
from animate_rt.engines.contract import Contract, TensorSpec
from animate_rt.engines.cuda import tensorrt
from animate_rt.engines.cuda.plan import PlanOptions, build_plan, compute_capabilities
from animate_rt.engines.model import ModelConfig
from animate_rt.engines.precision import PRECISIONS
from animate_rt.export import build_bundle
from animate_rt.export.networks.layers import Attention, attend
from animate_rt.export.onnx_graphs import export_graph
from onnx import TensorProto
from torch import Tensor, nn

pytest.importorskip("tensorrt_rtx", reason="its wheels exist for Linux and Windows on x86-64 only")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A float16 bundle of a small model with heads of width 16 and 32, and the seconds per stage."""
    folder = tmp_path_factory.mktemp("tensorrt")
    write_random_checkpoint(folder / "checkpoint", "tiny")
    seconds: dict[str, float] = {}
    began = ["", 0.0]

    def progress(what: str) -> None:
        stage = what.partition(": ")[0]
        if stage != began[0]:
            seconds[str(began[0])] = time.monotonic() - float(began[1])
            began[:] = stage, time.monotonic()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
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
    manifest = open_bundle(path).manifest
    with capsys.disabled():
        print()
        for graph, memory in manifest.memory.items():
            size = (path / "engines" / f"{graph}.plan").stat().st_size
            assert size > 10_000
            assert memory.weights > 10_000
            assert memory.activations > 10_000
            print(
                f"{graph:28} {size / 1e6:6.1f} MB {seconds[f'compile {graph}']:5.1f} s, "
                f"memory {memory.weights / 1e6:.1f} + {memory.activations / 1e6:.1f} MB"
            )
    assert manifest.memory.keys() == manifest.graphs.keys()
    assert manifest.precision == "fp16"
    assert manifest.backend_version == tensorrt.version()
    assert manifest.compute_capabilities == compute_capabilities()


def test_attention_is_the_fused_operator_for_heads_of_width_16_and_more(
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


class Types:
    """The types of a graph's tensors."""

    def __init__(self, path: Path):
        model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
        values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self.nodes = model.graph.node
        self.constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self.of = {value.name: value.type.tensor_type.elem_type for value in values} | self.constants

    def casts(self, source: int, target: int) -> int:
        """The number of casts from one type to the other, except of weights."""
        return sum(
            self.of[node.input[0]] == source and node.attribute[0].i == target
            for node in self.nodes
            if node.op_type == "Cast" and node.input[0] not in self.constants
        )

    def products(self) -> Counter[int]:
        """The number of products and convolutions by the type of both factors."""
        found = [node for node in self.nodes if node.op_type in ("MatMul", "Gemm", "Conv", "Attention")]
        assert all(self.of[node.input[0]] == self.of[node.input[1]] for node in found)
        return Counter(self.of[node.input[0]] for node in found)


def float32_islands(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """For each graph, the number of casts to float32 and of casts back: at every norm, and at inputs and
    outputs that are float32 or uint8 in the contract."""
    resnets, spatial = len(model.resnet_widths()), len(model.spatial_attentions())
    motion = resnets - 1  # after every layer; the second resnet in the middle has none
    levels, layers, encoder = len(model.vae.widths), model.vae.layers_per_block, model.image_encoder.layers
    in_motion_module = 1 + model.motion.blocks * (model.motion.attentions + 1)
    unet_norms = 2 * resnets + 3 * spatial + motion * in_motion_module + 1
    reference_norms = 2 * resnets + 3 * spatial - 1  # it ends at the last attention's input
    vae_norms = {n: 2 * levels * n + 2 * 2 + 1 + 1 for n in (layers, layers + 1)}  # sides, middle, end
    unet = (unet_norms + 1, unet_norms + 2)  # prediction; latents and mask
    return {
        "image_encoder": (2 * encoder + 2, 2 * encoder + 3),  # layers and both ends; pixels
        "vae_encoder": (vae_norms[layers] + 1, vae_norms[layers] + 1),  # latents; pixels
        "reference_net": (reference_norms, reference_norms + resnets + 1),  # time shifts and latents
        "pose_guider": (0, 1),  # pixels
        "time_embedding": (0, 1),
        "denoising_unet": unet,
        "denoising_unet_conditional": unet,
        "vae_decoder": (vae_norms[layers + 1] + 1, vae_norms[layers + 1] + 1),  # pixels; latents
    }


def test_only_norms_and_the_time_embedding_are_in_float32(built: tuple[Path, dict[str, float]]) -> None:
    """In strongly typed networks the graph determines the types. A norm in float16 would lose accuracy; a
    product in float32 would take twice the time and not run on tensor cores."""
    model = open_bundle(built[0]).manifest.model
    resnets = len(model.resnet_widths())
    for graph, (entered, left) in float32_islands(model).items():
        types = Types(built[0] / "graphs" / f"{graph}.onnx")
        assert types.casts(TensorProto.FLOAT16, TensorProto.FLOAT) == entered, graph
        assert types.casts(TensorProto.FLOAT, TensorProto.FLOAT16) == left, graph
        products = types.products()
        assert products.keys() <= {TensorProto.FLOAT, TensorProto.FLOAT16}
        # In float32 are the time embedding's two layers and each resnet's projection of it: they are one row,
        # from angles up to 1000. ReferenceNet always has time 0, which makes its first layer a constant.
        in_float32 = {"time_embedding": resnets + 2, "reference_net": resnets + 1}.get(graph, 0)
        assert products[TensorProto.FLOAT] == in_float32, graph
        assert products[TensorProto.FLOAT16] > 0 or graph == "time_embedding"


@pytest.mark.slow
def test_onnx_runtime_is_an_oracle_for_float16(
    built: tuple[Path, dict[str, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plans are verified against ONNX Runtime. Here its float16 is compared with OpenVINO's float32."""
    pytest.importorskip("openvino")
    shutil.copytree(built[0] / "graphs", tmp_path / "bundle" / "graphs")
    seal(tmp_path / "bundle", replace(open_bundle(built[0]).manifest, backend="openvino"))
    bundle = open_bundle(tmp_path / "bundle")
    comparisons = verify.verify(bundle)
    verify.check(bundle, comparisons)
    worst = {c.graph: 0.0 for c in comparisons}
    for c in comparisons:
        worst[c.graph] = max(worst[c.graph], c.relative)
    with capsys.disabled():
        print("\n" + "\n".join(f"{graph:28} {error:.1e}" for graph, error in worst.items()))
    assert max(worst.values()) > 10 * PRECISIONS["fp32"].tolerance  # so it did compute in float16


def test_a_graph_that_cannot_be_built_raises_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BuildError, match=r"broken\.onnx: TensorRT ended with status 1: .*\w") as caught:
        build_plan(tmp_path / "broken.onnx", tmp_path / "broken.plan")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "broken.plan").exists()


class SharedQuery(nn.Module):
    """Two Attention operators that share a query, which crashes the builder of TensorRT-RTX 1.7."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(32, heads=2)

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        query, own = self.attention.query(x), self.attention.key(x)
        both = torch.cat([own, key.expand(4, -1, -1, -1)], dim=2)
        halves = [attend(query, own, own), attend(query, both, both)]
        return self.attention.output(torch.cat(halves))


def test_a_crash_of_the_builder_raises_an_error(tmp_path: Path) -> None:
    contract = Contract(
        (TensorSpec("x", "float16", (4, 16, 32)), TensorSpec("key", "float16", (1, 2, 16, 16))),
        (TensorSpec("y", "float16", (8, 16, 32)),),
    )
    ir.save(export_graph("crash", SharedQuery().half(), contract), tmp_path / "crash.onnx")
    with pytest.raises(BuildError, match=r"crash\.onnx: TensorRT ended with signal \d+"):
        build_plan(tmp_path / "crash.onnx", tmp_path / "crash.plan")


def test_a_graph_in_float32(tmp_path: Path) -> None:
    contract = Contract(
        (TensorSpec("x", "float32", (4, 16, 32)),),
        (TensorSpec("y", "float32", (4, 16, 32)),),
    )
    ir.save(export_graph("attention", Attention(32, heads=2), contract), tmp_path / "attention.onnx")
    memory = build_plan(tmp_path / "attention.onnx", tmp_path / "attention.plan")
    assert memory
    assert memory.weights >= 4 * 32 * 32 * 4
    assert (tmp_path / "attention.plan").stat().st_size > memory.weights


def test_plans_are_for_the_requested_gpus(built: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    graph, plan = built[0] / "graphs" / "vae_decoder.onnx", tmp_path / "vae_decoder.plan"
    one = PlanOptions(compute_capabilities=("SM89",))
    assert compute_capabilities(one) == ("SM89",)
    build_plan(graph, plan, one)
    assert plan.read_bytes() != (built[0] / "engines" / plan.name).read_bytes()
    with pytest.raises(ConfigError, match=r"expected any of SM.*SM89.*, found SM17"):
        build_plan(graph, plan, PlanOptions(compute_capabilities=("SM89", "SM17")))


def test_invalid_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="optimization level: expected 0 to 5, found 6"):
        PlanOptions(optimization_level=6)
    with pytest.raises(ConfigError, match="workspace: expected at least 1 byte"):
        PlanOptions(workspace_bytes=0)


def test_a_workspace_that_is_too_small_raises_an_error(
    built: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    graph = built[0] / "graphs" / "denoising_unet.onnx"
    with pytest.raises(BuildError, match="within workspace limit"):
        build_plan(graph, tmp_path / "plan", PlanOptions(workspace_bytes=1 << 20))


def children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_build_reports_progress_and_stops_if_progress_raises(
    built: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    graph = built[0] / "graphs" / "denoising_unet.onnx"
    before = set(children())
    compilers: set[int] = set()
    seen = []
    raised = [time.monotonic()]

    def progress(what: str) -> None:
        compilers.update(set(children()) - before)
        seen.append(what)
        if "profile costs" in what:
            raised.append(time.monotonic())
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        build_plan(graph, tmp_path / "plan", progress=progress)
    # On a busy machine, both parts take longer.
    began, stopped = raised
    assert time.monotonic() - stopped < stopped - began + 2 * GRACE_S
    assert seen[-1].startswith("computing profile costs ")
    assert "reading the graph" in seen
    assert len(compilers) == 1
    assert not any(map(running, compilers))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_compiler_is_reported_as_likely_out_of_memory(
    built: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    before = set(children())

    def progress(what: str) -> None:
        if "profile costs" in what:
            for pid in set(children()) - before:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(BuildError, match=r"denoising_unet\.onnx: TensorRT was killed, .* memory"):
        build_plan(built[0] / "graphs" / "denoising_unet.onnx", tmp_path / "plan", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_does_not_outlive_its_parent(built: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """The parent is killed by SIGKILL, so it cannot stop the compiler."""
    script = f"""
import sys
from pathlib import Path
from animate_rt.engines.cuda.plan import build_plan
def progress(what):
    if "profile costs" in what:
        print(Path(f"/proc/self/task/{{__import__('os').getpid()}}/children").read_text(), flush=True)
        sys.stdin.read()
build_plan(Path({os.fspath(built[0] / "graphs" / "denoising_unet.onnx")!r}), Path("plan"), progress=progress)
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout
        (compiler,) = map(int, parent.stdout.readline().split())
        assert running(compiler)
        parent.kill()
    deadline = time.monotonic() + GRACE_S + 3
    while running(compiler) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(compiler)
    assert not (tmp_path / "plan").exists()
