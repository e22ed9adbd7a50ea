"""Caches of plans and timings: entries are reused only if everything in their key is the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from animate_rt.engines.cache import cache_folder
from animate_rt.engines.contract import Memory
from animate_rt.engines.cuda import plan
from animate_rt.engines.cuda.plan import PlanOptions, plan_key
from animate_rt.engines.cuda.plan_cache import PlanCache, TimingCache
from animate_rt.export.plans import graph_digest

MEMORY = Memory(weights=3, activations=4)
KEY = {"graph": "g"}


class Builder:
    """Counts how often the cache calls for a build."""

    def __init__(self, cache: PlanCache, plan: Path, content: bytes = b"plan\nwith\0bytes"):
        self.cache, self.plan, self.content = cache, plan, content
        self.builds = 0

    def build(self) -> Memory | None:
        self.builds += 1
        self.plan.write_bytes(self.content)
        return MEMORY

    def __call__(self, key: dict[str, object] = KEY) -> bool:
        """True if the plan had to be built."""
        before = self.builds
        self.plan.unlink(missing_ok=True)
        assert self.cache.fill(key, self.plan, self.build) == MEMORY
        assert self.plan.read_bytes() == self.content
        return self.builds > before


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


@pytest.fixture
def builder(cache: PlanCache, tmp_path: Path) -> Builder:
    return Builder(cache, tmp_path / "graph.plan")


def entries(cache: PlanCache) -> list[Path]:
    assert cache.folder is not None
    return sorted(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_plan_is_built_once(builder: Builder, cache: PlanCache) -> None:
    assert builder()
    assert not builder()
    assert len(entries(cache)) == 1
    assert builder({"graph": "another"})


@pytest.mark.parametrize("where", ["head", "plan", "end"])
def test_a_damaged_entry_is_built_again(builder: Builder, cache: PlanCache, where: str) -> None:
    builder()
    (entry,) = entries(cache)
    content = bytearray(entry.read_bytes())
    if where == "end":
        del content[-1]
    else:
        content[5 if where == "head" else -3] ^= 1
    entry.write_bytes(content)
    assert builder()
    assert not builder()


@pytest.mark.parametrize(
    "memory",
    [
        *(None, "", {}, {"memory": 0}, {"memory": []}, {"memory": {"weights": 1}}),
        *({"memory": {"weights": -1, "activations": 1}}, {"memory": {"weights": 1, "activations": 10**400}}),
        *("[" * 500, "x" * 10**6),
    ],
)
def test_an_entry_with_another_first_line_is_built_again(
    builder: Builder, cache: PlanCache, memory: object
) -> None:
    builder()
    (entry,) = entries(cache)
    head, plan = entry.read_bytes().split(b"\n", 1)
    sealed = {"sha256": json.loads(head)["sha256"]}
    line = json.dumps(sealed | memory if isinstance(memory, dict) else memory) if memory != "" else ""
    entry.write_bytes((memory if isinstance(memory, str) and memory else line).encode() + b"\n" + plan)
    assert builder()
    assert not builder()


def test_the_least_recently_used_plan_is_evicted(builder: Builder, cache: PlanCache) -> None:
    for name in "abc":
        builder({"graph": name})
    for age, entry in enumerate(reversed(entries(cache))):
        os.utime(entry, ns=(0, 10**18 - age * 10**9))
    builder({"graph": "a"})  # its use makes it the most recent
    cache.num_bytes = 2 * entries(cache)[0].stat().st_size + 1
    builder({"graph": "d"})
    assert len(entries(cache)) == 2
    assert not builder({"graph": "a"})
    assert not builder({"graph": "d"})
    assert builder({"graph": "b"})


def test_plans_are_built_even_if_the_cache_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    builder = Builder(PlanCache(tmp_path / "file" / "plans"), tmp_path / "graph.plan")
    assert builder()
    assert builder()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "animate-rt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification says to ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "animate-rt"


def save_graph(folder: Path, *, weight: float = 1.0, padding: int = 0, operator: str = "Add") -> Path:
    """An ONNX file, and beside it a weight file with 4 kB of weights after `padding` bytes."""
    folder.mkdir(exist_ok=True)
    values = np.full(1024, weight, np.float32)
    (folder / "weights.bin").write_bytes(bytes(padding) + values.tobytes())
    tensor = onnx.TensorProto(name="w", dims=[1024], data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": padding, "length": values.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1024]) for n in "xy")
    node = onnx.helper.make_node(operator, ["x", "w"], ["y"])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y], [tensor])), folder / "g.onnx"
    )
    return folder / "g.onnx"


def test_a_graph_digest_covers_operators_and_weights(tmp_path: Path) -> None:
    digest = graph_digest(save_graph(tmp_path))
    assert graph_digest(save_graph(tmp_path)) == digest
    assert graph_digest(save_graph(tmp_path, padding=64)) == digest  # whatever precedes them in the file
    assert graph_digest(save_graph(tmp_path, weight=2)) != digest
    assert graph_digest(save_graph(tmp_path, operator="Mul")) != digest


def test_a_change_of_any_part_of_the_key_builds_again(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    digest = graph_digest(save_graph(tmp_path / "graphs"))
    options = PlanOptions(compute_capabilities=("SM89",), workspace_bytes=1 << 30)
    assert builder(plan_key(digest, options))
    assert not builder(plan_key(digest, options))
    assert builder(plan_key(graph_digest(save_graph(tmp_path / "graphs", weight=2)), options))
    assert builder(plan_key(digest, replace(options, compute_capabilities=("SM89", "SM86"))))
    assert builder(plan_key(digest, replace(options, optimization_level=4)))
    assert builder(plan_key(digest, replace(options, workspace_bytes=None)))
    changes: dict[str, object] = {"version": lambda: "tensorrt_rtx 9.9", "RECIPE": plan.RECIPE + 1}
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(plan, name, value)
            assert builder(plan_key(digest, options)), name
    assert not builder(plan_key(digest, options))


@pytest.fixture
def timings(tmp_path: Path) -> Callable[[], TimingCache]:
    """`timings()`: a timing cache. TensorRT-RTX has its calls, although it measures no timings."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)

    def new() -> TimingCache:
        return TimingCache(builder.create_builder_config(), "tensorrt 11.1", "NVIDIA H200", tmp_path / "t")

    return new


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_timing_caches_are_complete_or_ignored(timings: Callable[[], TimingCache], tmp_path: Path) -> None:
    one, other = timings(), timings()
    assert one.path == tmp_path / "t" / "tensorrt-11.1-NVIDIA-H200"
    assert one.read() == b""
    one.write()
    other.write()  # both were opened before the file existed
    content = one.read()
    assert content
    assert timings().read() == content
    one.path.write_bytes(one.path.read_bytes()[:-1])
    assert timings().read() == b""
    timings().write()
    assert timings().read()
    assert [path.name for path in one.path.parent.iterdir()] == [one.path.name]
