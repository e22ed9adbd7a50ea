"""What can go wrong while networks are exported: errors of torch, too little memory, several threads."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from animate_rt import BuildError, OutOfMemory
from animate_rt.engines.contract import Contract, TensorSpec
from animate_rt.export.checkpoints.weights import assign
from animate_rt.export.onnx_graphs import export_graph
from torch import Tensor, nn

CONTRACT = Contract(
    (TensorSpec("x", "float32", (1, 4)),),
    (TensorSpec("y", "float32", (1, 4)),),
)


class Failing(nn.Module):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def forward(self, _x: Tensor) -> Tensor:
        raise self.error


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_an_error_of_torch_is_one_line_without_its_advice() -> None:
    with pytest.raises(BuildError) as caught:
        export_graph(
            "vae_decoder", Failing(ValueError("\x1b[1mno such shape\nsubmit a PR to PyTorch")), CONTRACT
        )
    expected = r"vae_decoder: torch cannot export this graph: ValueError: \x1b[1mno such shape"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory_is_told_as_such(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="vae_decoder: no room to export it"):
        export_graph("vae_decoder", Failing(error), CONTRACT)


def test_weights_without_room_for_them() -> None:
    side = 1 << 24  # 1 PB in float32
    network = nn.Linear(side, side, bias=False, device="meta")
    weights = {"weight": torch.zeros((), dtype=torch.bfloat16).expand(side, side)}
    with pytest.raises(OutOfMemory, match="file: no room for its weights"):
        assign(network, weights, torch.float32, "file")


def test_several_threads_export_and_leave_the_warning_filters_as_they_are() -> None:
    export_graph("first", Doubling(), CONTRACT)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(lambda _: export_graph("doubling", Doubling(), CONTRACT), range(8)))
    assert [graph.graph.name for graph in graphs] == ["doubling"] * 8
    assert warnings.filters == before
