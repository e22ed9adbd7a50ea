"""The graphs' PyTorch modules as engines: accuracy of a clip, and which runs are captured as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt import Animator
from animate_rt.benchmarks.baselines.torch_engine import (
    MAX_GRAPHS,
    TorchContext,
    TorchEngine,
    torch_bundle,
    torch_engines,
)
from animate_rt.engines.contract import Contract, ShapeBucket, TensorSpec
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.precision import Precision


@pytest.mark.parametrize(("precision", "decibels"), [("fp32", 45), ("fp16", 30)])
def test_a_clip_needs_no_bundle_on_disk(small: Any, precision: Precision, decibels: float) -> None:
    checkpoint = small.checkpoint, small.inference_config
    bucket = ShapeBucket(width=small.width, height=small.height, window=small.window)
    bundle = torch_bundle(*checkpoint, bucket, precision)
    with Animator(bundle, device=CPUDevice(), load=torch_engines(*checkpoint)) as animator:
        frames = np.stack(list(animator.animate(small.reference, small.pose, **small.animate_options)))
    truth = small.io["video"][0].transpose(1, 2, 3, 0)
    assert -10 * np.log10(np.mean((frames / 255 - truth) ** 2)) >= decibels


class FakeGraph:
    """Stands in for torch.cuda.CUDAGraph and counts its replays."""

    fails = False

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(_graph: FakeGraph, _memory: object, _stream: object, **_options: str) -> Iterator[None]:
        yield
        if FakeGraph.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)


class Bound:
    """A context. `bind` binds a new buffer; `graph` asks for the CUDA graph of a run with what is bound."""

    def __init__(self) -> None:
        spec = TensorSpec("x", "float32", (2,))
        self.device = CPUDevice()
        self.context = TorchContext(TorchEngine(Contract((spec,), ()), torch.nn.Identity()))
        self.calls = 0

    def bind(self) -> Any:
        buffer = self.device.buffer("float32", (2,))
        self.context.bind("x", buffer)
        return buffer

    def graph(self) -> Any:
        def run() -> None:
            self.calls += 1

        return self.context.graph(run, None)


@pytest.mark.usefixtures("fake")
def test_the_second_run_with_the_same_buffers_is_captured() -> None:
    bound = Bound()
    first = bound.bind()
    assert bound.graph() is None
    graph = bound.graph()
    assert graph is bound.graph()
    assert bound.calls == 1
    kept = [bound.bind()]
    assert bound.graph() is None  # other buffers
    bound.context.bind("x", first)
    assert bound.graph() is graph
    for _ in range(MAX_GRAPHS):
        kept.append(bound.bind())
        bound.graph()
    bound.context.bind("x", first)
    assert bound.graph() is None  # evicted
    assert len(bound.context.graphs) == MAX_GRAPHS


@pytest.mark.usefixtures("fake")
def test_a_capture_that_fails_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeGraph, "fails", True)
    bound = Bound()
    bound.bind()
    with caplog.at_level(logging.WARNING, logger="animate_rt.torch"):
        assert bound.graph() is None
        assert bound.graph() is None
    assert not bound.context.graphs_enabled
    assert "continues without CUDA graphs" in caplog.text
