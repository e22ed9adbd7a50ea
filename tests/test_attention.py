"""The fused operator Attention in float16: how exact its softmax is, which is not asked to be float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from animate_rt import BuildError
from animate_rt.engines.contract import Contract, TensorSpec
from animate_rt.engines.cuda.plan import build_plan
from animate_rt.export.networks.layers import attend
from animate_rt.export.onnx_graphs import export_graph
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]
HEADS, WIDTH = 2, 40


class Attend(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value)


def fused(queries: int, keys: int, precision: int | None = None) -> bytes:
    """The graph that `attend` is exported as, with another attribute softmax_precision if one is given."""
    specs = [
        TensorSpec(name, "float16", (1, HEADS, tokens, WIDTH))
        for name, tokens in (("query", queries), ("key", keys), ("value", keys))
    ]
    output = TensorSpec("attended", "float16", (1, HEADS, queries, WIDTH))
    model = export_graph("attention", Attend(), Contract(tuple(specs), (output,)))
    (node,) = (node for node in model.graph if node.op_type == "Attention")
    assert "softmax_precision" not in node.attributes
    if precision is not None:
        node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", precision)
    return ir.to_proto(model).SerializeToString()


def inputs(queries: int, keys: int, spread: float) -> list[Array]:
    """Queries and keys whose scores have the given standard deviation, and values of unit size."""
    random = np.random.default_rng(0)
    return [
        (random.standard_normal((1, HEADS, tokens, WIDTH)) * size).astype(np.float16)
        for tokens, size in ((queries, spread**0.5), (keys, spread**0.5), (keys, 1))
    ]


def error(found: Array, given: list[Array]) -> float:
    """Root mean square of the difference from the result in float64, relative to that result."""
    query, key, value = (torch.from_numpy(array).double() for array in given)
    exact = (query @ key.transpose(2, 3) * WIDTH**-0.5).softmax(dim=3) @ value
    return float(
        (torch.from_numpy(found).double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    )


@pytest.mark.parametrize(("queries", "keys"), [(24, 24), (256, 512), (64, 12288)])  # motion; reference
@pytest.mark.parametrize("spread", [1, 4, 12])
def test_the_softmax_of_the_fused_operator_is_as_exact_as_float32(
    queries: int, keys: int, spread: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime computes the same bits whether or not float32 is asked for. They are as exact as products
    in float16 around a softmax in float32, which is the form for widths that are not fused."""
    runtime = pytest.importorskip("onnxruntime")
    given = inputs(queries, keys, spread)
    named = dict(zip(("query", "key", "value"), given, strict=True))
    plain, asked = (
        runtime.InferenceSession(fused(queries, keys, precision)).run(None, named)[0]
        for precision in (None, ir.DataType.FLOAT)
    )
    assert np.array_equal(plain, asked)
    query, key, value = map(torch.from_numpy, given)
    scores = (query * WIDTH**-0.5) @ key.transpose(2, 3)
    decomposed = (scores.float().softmax(dim=3).half() @ value).numpy()
    ours, theirs = error(plain, given), error(decomposed, given)
    with capsys.disabled():
        print(
            f"\n{queries} x {keys}, scores of {spread}: fused {ours:.1e}, float32 softmax {theirs:.1e}",
            end="",
        )
    assert ours <= 1.1 * theirs
    assert ours < 5e-3


def test_tensorrt_refuses_a_graph_that_asks_for_float32(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="its wheels exist for Linux and Windows on x86-64 only")
    graph, plan = tmp_path / "attention.onnx", tmp_path / "attention.plan"
    graph.write_bytes(fused(16, 16))
    build_plan(graph, plan)
    graph.write_bytes(fused(16, 16, ir.DataType.FLOAT))
    with pytest.raises(BuildError, match="softmax precision is not supported"):
        build_plan(graph, plan)
