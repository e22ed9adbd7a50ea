"""Building plans with `tensorrt`, on its stand-in: what a build of tensorrt_rtx does not reach."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from animate_rt.engines import build_process
from animate_rt.engines.contract import Memory
from animate_rt.engines.cuda import plan as plans
from animate_rt.engines.cuda.plan import PlanOptions, build_plan, compute_capabilities, gpu, plan_key
from animate_rt.engines.cuda.plan_cache import TimingCache
from animate_rt.errors import BuildError, ConfigError, DeviceError

from .standin import builder, installed, packages
from .standin.tensorrt import MAGIC, ILogger


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ONNX file. The stand-in is in this process and in those that it starts."""
    paths = [os.fspath(packages(tmp_path / "packages")), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    path = tmp_path / "vae_decoder.onnx"
    path.write_bytes(b"a graph")
    with installed():
        yield path


def timings(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "animate-rt" / "timings").iterdir()
    return path


def test_the_gpu_s_capability_and_name() -> None:
    with installed(capability="SM120"):
        assert gpu() == ("SM120", "Stand-in GPU")
        assert compute_capabilities() == ("SM120",)
        assert compute_capabilities(PlanOptions(compute_capabilities=("SM120",))) == ("SM120",)
        with pytest.raises(ConfigError, match="tensorrt builds for the installed GPU"):
            compute_capabilities(PlanOptions(compute_capabilities=("SM90",)))
        key = plan_key("digest")
        assert (key["device"], key["compute_capabilities"]) == ("Stand-in GPU", ("SM120",))


def test_no_gpu_to_build_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed():
        import cuda.core

        monkeypatch.delattr(cuda.core, "Device")
        with pytest.raises(DeviceError, match="expected an NVIDIA GPU to build for, found none"):
            gpu()


def test_a_build_reports_its_steps_and_memory_and_keeps_timings(graph: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    plan = tmp_path / "vae_decoder.plan"
    assert build_plan(graph, plan, progress=steps.append) == Memory(weights=2000, activations=1000)
    assert plan.read_bytes().startswith(MAGIC)
    assert "reading the graph" in steps
    assert "tactic timing 40/40" in steps
    kept = timings(tmp_path).read_bytes()
    assert kept[:32] == hashlib.sha256(kept[32:]).digest()
    assert kept[32:] == builder.CACHE + b"vae_decoder.onnx"
    assert "Stand-in-GPU" in timings(tmp_path).name


def test_timings_of_several_builds_are_merged(graph: Path, tmp_path: Path) -> None:
    build_plan(graph, tmp_path / "a.plan")
    build_plan(graph.rename(tmp_path / "pose_guider.onnx"), tmp_path / "b.plan")
    assert timings(tmp_path).read_bytes()[32:] == builder.CACHE + b"pose_guider.onnx,vae_decoder.onnx"


@pytest.mark.parametrize("content", [b"of another driver", b""])
def test_timings_that_tensorrt_refuses_are_replaced(graph: Path, tmp_path: Path, content: bytes) -> None:
    build_plan(graph, tmp_path / "a.plan")
    timings(tmp_path).write_bytes(hashlib.sha256(content).digest() + content)
    build_plan(graph, tmp_path / "b.plan")
    assert timings(tmp_path).read_bytes()[32:] == builder.CACHE + b"vae_decoder.onnx"


def test_timings_that_cannot_be_kept_do_not_stop_a_build(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    cache = TimingCache(builder.IBuilderConfig(ILogger()), "11", "GPU", tmp_path / "taken")
    cache.write()
    assert (tmp_path / "taken").read_bytes() == b""


def test_a_build_that_is_cancelled_leaves_nothing(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_process, "HEARTBEAT_S", 0.01)

    def stop_at_timing(what: str) -> None:
        if what.startswith("tactic timing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(graph, tmp_path / "a.plan", progress=stop_at_timing)
    assert not list(tmp_path.glob("*.plan*"))


def test_a_monitor_that_was_told_to_stop_ends_the_build() -> None:
    """Without its process being killed: TensorRT releases the GPU itself."""
    from threading import Event

    with installed():
        import tensorrt

        stopping, shown = Event(), list[dict[str, str]]()
        config = builder.IBuilderConfig(ILogger())
        config.progress_monitor = plans.new_monitor(tensorrt, shown.append, stopping)
        assert builder.Builder(plans.new_logger(tensorrt))._show(config)
        count = len(shown)
        stopping.set()
        assert not builder.Builder(plans.new_logger(tensorrt))._show(config)
        assert len(shown) == count + 2


def test_a_graph_that_does_not_parse(graph: Path, tmp_path: Path) -> None:
    graph.write_bytes(b"")
    with pytest.raises(BuildError, match=r"vae_decoder\.onnx: .*status 1: Failed to parse the ONNX model"):
        build_plan(graph, tmp_path / "a.plan")


def test_a_workspace_that_is_too_small(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="status 1: Error Code 10: Could not find any implementation"):
        build_plan(graph, tmp_path / "a.plan", PlanOptions(workspace_bytes=100))
