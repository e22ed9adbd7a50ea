"""TensorRT engines on the stand-in: execution contexts, CUDA graphs, bindings, and how each can fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.engines.backends import load_engine
from animate_rt.engines.bundle import Bundle, open_bundle
from animate_rt.engines.contract import POSE_GUIDER, TIME_EMBEDDING
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.cuda import tensorrt
from animate_rt.engines.cuda.device import CUDADevice
from animate_rt.engines.device import Buffer
from animate_rt.errors import ConfigError, DeviceError, OutOfMemory
from numpy.typing import NDArray

from .standin import GPU, caught, installed, tensorrt_bundle

Array = NDArray[Any]


@pytest.fixture(scope="module")
def bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tensorrt_bundle(small_bundle, tmp_path_factory.mktemp("plans") / "bundle"))


class Run:
    """An engine with an execution context, a stream, and device and page-locked buffers for its tensors."""

    def __init__(self, device: CUDADevice, bundle: Bundle, graph: str, name: str = "run"):
        self.device = device
        self.engine = tensorrt.load_plan(bundle, graph, device)
        self.stream = device.stream(name)
        self.context = self.engine.context(device.buffer("uint8", (self.engine.activation_bytes,)))
        contract = self.engine.contract
        self.specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
        self.inputs, self.outputs = contract.inputs, contract.outputs
        self.hosts = {name: device.host_buffer(spec.dtype, spec.shape) for name, spec in self.specs.items()}
        self.rebind()

    def rebind(self, buffers: dict[str, Buffer] | None = None) -> dict[str, Buffer]:
        self.buffers = buffers or {
            name: self.device.buffer(spec.dtype, spec.shape) for name, spec in self.specs.items()
        }
        for name, buffer in self.buffers.items():
            self.context.bind(name, buffer)
        return self.buffers

    def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
        for name, array in inputs.items():
            host = self.hosts[name].array
            assert host is not None
            host[...] = array
        self.stream.copy(*((self.buffers[spec.name], self.hosts[spec.name]) for spec in self.inputs))
        self.context.enqueue(self.stream)
        self.stream.copy(*((self.hosts[spec.name], self.buffers[spec.name]) for spec in self.outputs))
        self.stream.record().synchronize()
        arrays = {spec.name: self.hosts[spec.name].array for spec in self.outputs}
        return {name: array.copy() for name, array in arrays.items() if array is not None}


def random_inputs(bundle: Bundle, graph: str, seed: int) -> dict[str, Array]:
    chance = np.random.default_rng(seed)
    inputs: dict[str, Array] = {}
    for spec in bundle.manifest.graphs[graph].inputs:
        if spec.dtype == "uint8":
            inputs[spec.name] = chance.integers(0, 256, spec.shape).astype(np.uint8)
        elif spec.dtype == "int32":
            inputs[spec.name] = np.full(spec.shape, bundle.manifest.bucket.window, np.int32)
        else:
            inputs[spec.name] = chance.standard_normal(spec.shape).astype(spec.dtype)
    return inputs


class Expected:
    """`expected(graph, inputs)`: the outputs of the same engine on the CPU."""

    def __init__(self, path: Path):
        self.bundle = open_bundle(path)
        self.device = CPUDevice()
        self.engines: dict[str, Any] = {}

    def __call__(self, graph: str, inputs: dict[str, Array]) -> dict[str, Array]:
        if graph not in self.engines:
            self.engines[graph] = load_engine(self.bundle, graph, self.device)
        loaded, stream = self.engines[graph], self.device.stream("cpu")
        context = loaded.context(None)
        outputs = {spec.name: self.device.buffer(spec.dtype, spec.shape) for spec in loaded.contract.outputs}
        for name, array in inputs.items():
            buffer = self.device.buffer(array.dtype.name, array.shape)  # type: ignore[arg-type]
            assert buffer.array is not None
            buffer.array[...] = array
            context.bind(name, buffer)
        for name, buffer in outputs.items():
            context.bind(name, buffer)
        context.enqueue(stream)
        stream.record().synchronize()
        return {name: buffer.array for name, buffer in outputs.items() if buffer.array is not None}


@pytest.fixture(scope="module")
def expected(small_bundle: Path) -> Iterator[Expected]:
    expected = Expected(small_bundle)
    yield expected
    expected.device.close()


def check(results: dict[str, Array], expected: dict[str, Array]) -> None:
    assert results.keys() == expected.keys()
    for name, array in results.items():
        assert array.tobytes() == expected[name].tobytes(), name


def test_plain_captured_and_replayed_runs_equal_the_cpu(
    gpu: GPU, device: CUDADevice, bundle: Bundle, expected: Expected
) -> None:
    run = Run(device, bundle, POSE_GUIDER)
    for seed in range(4):
        inputs = random_inputs(bundle, POSE_GUIDER, seed)
        check(run(inputs), expected(POSE_GUIDER, inputs))
    assert run.engine.runs == 4
    calls = gpu.calls
    assert calls["IExecutionContext.execute_async_v3"] == 2  # one run and one capture
    assert (calls["cuStreamBeginCapture"], calls["cuGraphInstantiate"], calls["cuGraphLaunch"]) == (1, 1, 3)


def test_every_graph_equals_the_cpu(bundle: Bundle, expected: Expected) -> None:
    with installed(5):
        device = CUDADevice(timing=False)
        for graph in bundle.manifest.graphs:
            inputs = random_inputs(bundle, graph, 7)
            check(Run(device, bundle, graph)(inputs), expected(graph, inputs))
        device.close()


def test_replays_allocate_and_bind_nothing(gpu: GPU, device: CUDADevice, bundle: Bundle) -> None:
    run = Run(device, bundle, TIME_EMBEDDING)
    inputs = random_inputs(bundle, TIME_EMBEDDING, 0)
    for _ in range(3):
        run(inputs)
    before = gpu.calls.copy()
    run.rebind(run.buffers)
    run(inputs)
    assert set(gpu.calls - before) <= {
        "cuMemcpyAsync",
        "cuGraphLaunch",
        "Stream.record",
        "Event.sync",
    }


def test_cuda_graphs_belong_to_their_buffers_and_are_limited(
    gpu: GPU, device: CUDADevice, bundle: Bundle, expected: Expected
) -> None:
    """There are more sets of buffers than CUDA graphs are kept for; some graphs are destroyed in flight."""
    run = Run(device, bundle, TIME_EMBEDDING)
    sets = [run.rebind() for _ in range(tensorrt.MAX_GRAPHS + 2)]
    spec = run.outputs[0]
    for _ in range(3):
        for i, buffers in enumerate(sets):
            inputs = random_inputs(bundle, TIME_EMBEDDING, i)
            run.rebind(buffers)
            run(inputs)
            run.context.enqueue(run.stream)
        for i, buffers in enumerate(sets):
            run.stream.copy((run.hosts[spec.name], buffers[spec.name]))
            run.stream.record().synchronize()
            found = run.hosts[spec.name].array
            assert found is not None
            check({spec.name: found}, expected(TIME_EMBEDDING, random_inputs(bundle, TIME_EMBEDDING, i)))
    assert len(run.context.graphs) == tensorrt.MAX_GRAPHS
    assert gpu.calls["cuGraphInstantiate"] > tensorrt.MAX_GRAPHS


@pytest.mark.parametrize("how", ["run", "end", "cuStreamBeginCapture", "cuGraphInstantiate"])
def test_a_failed_capture_disables_cuda_graphs_with_one_warning(
    gpu: GPU,
    device: CUDADevice,
    bundle: Bundle,
    expected: Expected,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    from cuda.bindings.driver import CUresult

    if how in ("run", "end"):
        gpu.uncapturable = how
    else:
        gpu.faults[how] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    run = Run(device, bundle, TIME_EMBEDDING)
    with caplog.at_level(logging.WARNING, "animate_rt.tensorrt"):
        for seed in range(4):
            inputs = random_inputs(bundle, TIME_EMBEDDING, seed)
            check(run(inputs), expected(TIME_EMBEDDING, inputs))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "continues without CUDA graphs" in warnings[0].getMessage()
    assert not run.context.graphs_enabled
    assert run.engine.runs == 4


def test_cuda_graphs_can_be_switched_off(
    gpu: GPU, device: CUDADevice, bundle: Bundle, expected: Expected
) -> None:
    run = Run(device, bundle, TIME_EMBEDDING)
    run.context.graphs_enabled = False
    for seed in range(3):
        inputs = random_inputs(bundle, TIME_EMBEDDING, seed)
        check(run(inputs), expected(TIME_EMBEDDING, inputs))
    assert gpu.calls["cuGraphLaunch"] == 0


def test_runs_that_fail(gpu: GPU, device: CUDADevice, bundle: Bundle) -> None:
    run = Run(device, bundle, TIME_EMBEDDING)
    gpu.faults["IExecutionContext.execute_async_v3"] = RuntimeError("Cask\nfailed")
    with pytest.raises(DeviceError, match=r"time_embedding: TensorRT cannot run: Cask failed$"):
        run.context.enqueue(run.stream)
    gpu.faults["IExecutionContext.execute_async_v3"] = RuntimeError("Out of memory")
    with pytest.raises(OutOfMemory, match=r"TensorRT cannot run: Out of memory"):
        run.context.enqueue(run.stream)
    gpu.faults.clear()
    run.context.enqueue(run.stream)
    assert gpu.calls["cuStreamBeginCapture"] == 0  # the first successful run is not captured
    run.stream.record().synchronize()  # the context may only be destroyed once its work is done
    gpu.faults["ICudaEngine.create_execution_context"] = RuntimeError("no")
    with pytest.raises(DeviceError, match="cannot create an execution context: no"):
        run.engine.context(run.context.workspace)


def test_a_replay_that_fails(gpu: GPU, device: CUDADevice, bundle: Bundle) -> None:
    from cuda.bindings.driver import CUresult

    run = Run(device, bundle, TIME_EMBEDDING)
    for _ in range(2):
        run(random_inputs(bundle, TIME_EMBEDDING, 0))
    gpu.faults["cuGraphLaunch"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="cuGraphLaunch: CUDA_ERROR_ILLEGAL_ADDRESS"):
        run.context.enqueue(run.stream)


def test_two_contexts_run_at_once(device: CUDADevice, bundle: Bundle, expected: Expected) -> None:
    """Each has its own stream and thread, and captures while the other allocates."""
    device.activate()
    shared = tensorrt.load_plan(bundle, TIME_EMBEDDING, device)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            device.activate()
            run = Run(device, bundle, TIME_EMBEDDING, f"thread {seed}")
            run.engine = shared
            run.context = shared.context(device.buffer("uint8", (shared.activation_bytes,)))
            for i in range(4):
                if i % 2 == 0:
                    run.rebind()
                inputs = random_inputs(bundle, TIME_EMBEDDING, 10 * seed + i)
                check(run(inputs), expected(TIME_EMBEDDING, inputs))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert shared.runs == 8


def test_bindings_are_checked(gpu: GPU, device: CUDADevice, bundle: Bundle) -> None:
    run = Run(device, bundle, POSE_GUIDER)
    features = run.specs["pose_features"]
    with pytest.raises(ConfigError, match="pose_features: expected float32"):
        run.context.bind("pose_features", device.buffer("float16", features.shape))
    with pytest.raises(ConfigError, match="pose_features: expected float32"):
        run.context.bind("pose_features", device.buffer("float32", (2, *features.shape[1:])))
    many = device.buffer("float32", (3, *features.shape[1:]))
    run.context.bind("pose_features", many.rows(0, 1))
    if features.num_bytes % 256:
        with pytest.raises(ConfigError, match="multiple of 256"):
            run.context.bind("pose_features", many.rows(1, 2))
    odd = Buffer("float32", features.shape, many.address + 4)
    with pytest.raises(ConfigError, match=r"expected an address that is a multiple of 256.* 4 bytes past"):
        run.context.bind("pose_features", odd)
    with pytest.raises(AssertionError):
        run.context.bind("pose_features", device.host_buffer("float32", features.shape))
    fresh = run.engine.context(run.context.workspace)
    with pytest.raises(AssertionError, match="not bound"):
        fresh.enqueue(run.stream)
    for wrong in (None, device.buffer("uint8", (1,)), device.buffer("float32", (1 << 20,))):
        with pytest.raises(AssertionError):
            run.engine.context(wrong)
    assert not gpu.memory.mistakes


def test_the_stand_in_finds_a_workspace_in_two_contexts_at_once(
    gpu: GPU, device: CUDADevice, bundle: Bundle
) -> None:
    one, two = Run(device, bundle, TIME_EMBEDDING, "one"), Run(device, bundle, TIME_EMBEDDING, "two")
    two.context = two.engine.context(one.context.workspace)
    two.rebind()
    one.context.enqueue(one.stream)
    with caught(gpu, "no order between an execution"):
        two.context.enqueue(two.stream)
    one.stream.record().synchronize()


def test_the_stand_in_finds_a_context_destroyed_while_it_runs(
    gpu: GPU, device: CUDADevice, bundle: Bundle
) -> None:
    run = Run(device, bundle, TIME_EMBEDDING)
    run.context.enqueue(run.stream)
    del run.context
    assert "memory is freed that an execution" in str(gpu.memory.mistakes.pop())
