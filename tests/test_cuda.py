"""The CUDA device and TensorRT plans on the stand-in for both: every call, and every way it can fail."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.engines import cuda, engine, tensorrt
from animate_rt.engines.bundle import MANIFEST, Bundle, open_bundle, seal
from animate_rt.engines.contract import POSE_GUIDER, TIME_EMBEDDING, DType
from animate_rt.engines.cpu import CPUDevice, apply
from animate_rt.engines.cuda import CUDADevice
from animate_rt.engines.device import Buffer, Update
from animate_rt.errors import (
    AnimateError,
    BundleError,
    BundleMismatch,
    ConfigError,
    DeviceError,
    OutOfMemory,
)
from numpy.typing import NDArray

from .standin import GPU, caught, installed, tensorrt_bundle
from .standin import tensorrt as plans

Array = NDArray[Any]
SHAPE = (3, 4, 5, 7)
BOTH = pytest.mark.parametrize("first", [True, False]), pytest.mark.parametrize("last", [True, False])


@pytest.fixture(params=[0, 1, 2, 3])
def gpu(request: pytest.FixtureRequest) -> Iterator[GPU]:
    """The stand-in, with different ideas of when streams run."""
    with installed(request.param) as gpu:
        yield gpu


@pytest.fixture
def device(gpu: GPU) -> Iterator[CUDADevice]:
    device = CUDADevice(timing=True)
    yield device
    device.close()
    assert gpu.memory.used_bytes == 0
    assert not [memory for memory in gpu.memory.allocations.values() if memory.live and memory.kind == "host"]


def filled(device: CUDADevice, array: Array) -> tuple[Buffer, Buffer]:
    """The array in page-locked memory, and device memory for it."""
    dtype: Any = array.dtype.name
    host = device.host_buffer(dtype, array.shape)
    assert host.array is not None
    host.array[...] = array
    return host, device.buffer(dtype, array.shape)


# The device


def test_description(gpu: GPU, device: CUDADevice) -> None:
    assert device.description == "Stand-in GPU"
    assert device.compute_capability == gpu.capability


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_copies_go_everywhere(device: CUDADevice, dtype: DType) -> None:
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    host, first = filled(device, values)
    second, back = device.buffer(dtype, SHAPE), device.host_buffer(dtype, SHAPE)
    assert back.array is not None
    assert (back.array.dtype, back.array.shape) == (np.dtype(dtype), SHAPE)
    stream = device.stream("copies")
    stream.copy((first, host), (second.rows(0, 2), first.rows(1, 3)), (second.rows(2, 3), first.rows(0, 1)))
    stream.copy((back, second))
    stream.record().synchronize()
    assert np.array_equal(back.array, np.roll(values, -1, axis=0))


def test_copies_between_different_buffers_are_refused(device: CUDADevice) -> None:
    a, b, c = (
        device.buffer("float32", (2, 3)),
        device.buffer("float32", (3, 2)),
        device.buffer("int32", (2, 3)),
    )
    stream = device.stream("copies")
    with pytest.raises(AssertionError):
        stream.copy((a, b))
    with pytest.raises(AssertionError):
        stream.copy((a, c))


def test_events_order_streams(device: CUDADevice) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    host, there = filled(device, values)
    back = device.host_buffer("float32", SHAPE)
    up, down = device.stream("up"), device.stream("down")
    for step in range(3):
        assert host.array is not None
        host.array[...] = values + step
        up.copy((there, host))
        event = up.record()
        up.wait(event, needs=False)
        down.wait(event, needs=True)
        down.copy((back, there))
        done = down.record()
        up.wait(done, needs=False)
        done.synchronize()
        assert back.array is not None
        assert np.array_equal(back.array, values + step)


def test_a_missing_event_would_be_noticed(gpu: GPU, device: CUDADevice) -> None:
    host, there = filled(device, np.zeros(SHAPE, np.float32))
    device.stream("up").copy((there, host))
    with caught(gpu, "no order"):
        device.stream("down").copy((device.host_buffer("float32", SHAPE), there))


def test_events_know_when(device: CUDADevice) -> None:
    stream = device.stream("work")
    first, second = stream.record(), stream.record()
    while not second.done:
        pass
    first.synchronize()
    assert 0 <= first.time_s <= second.time_s


def test_time_is_kept_only_where_it_was_asked_for() -> None:
    with installed():
        device = CUDADevice(timing=False)
        event = device.stream("work").record()
        event.synchronize()
        with pytest.raises(DeviceError, match="timing enabled"):
            _ = event.time_s
        device.close()


def test_each_thread_activates_the_device(gpu: GPU, device: CUDADevice) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            device.activate()
            host, there = filled(device, np.ones(SHAPE, np.float32))
            stream = device.stream("thread")
            stream.copy((there, host))
            stream.record().synchronize()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert gpu.calls["Device.set_current"] == 4


def test_memory_is_counted_and_given_back(gpu: GPU) -> None:
    device = CUDADevice(timing=False)
    free = device.free_bytes()
    device.buffer("uint8", (1 << 20,))
    assert device.free_bytes() == free - (1 << 20)
    host, there = filled(device, np.ones(SHAPE, np.float32))
    device.stream("work").copy((there, host))  # nobody waits for it
    device.close()
    device.close()
    assert gpu.memory.used_bytes == 0


def test_no_room(gpu: GPU, device: CUDADevice) -> None:
    gpu.memory.total_bytes = 8_000_000
    with pytest.raises(
        OutOfMemory, match=r"no room for float32 \(3, 1000000\): expected 12 MB, found 8 MB free"
    ):
        device.buffer("float32", (3, 1_000_000))
    gpu.faults["LegacyPinnedMemoryResource.allocate"] = RuntimeError(
        "CUDA_ERROR_OUT_OF_MEMORY: no more\npages"
    )
    with pytest.raises(OutOfMemory, match="no room for uint8"):
        device.host_buffer("uint8", (10,))
    gpu.faults.clear()
    device.buffer("float32", (1, 1_000_000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Device.set_current", "expected an NVIDIA GPU and its driver"),
        ("Program.compile", r"cannot compile for the GPU; pip install 'animate-rt\[tensorrt\]'"),
        ("Device.create_stream", "allocations"),
    ],
)
def test_a_device_that_cannot_be_opened(call: str, message: str) -> None:
    with installed() as gpu:
        gpu.faults[call] = RuntimeError("Failure finding\nsomething")
        with pytest.raises(DeviceError, match=message) as caught:
            CUDADevice(timing=False)
        assert "\n" not in str(caught.value)


def test_without_cuda_core() -> None:
    with installed():
        sys.modules["cuda.core"] = None  # type: ignore[assignment]
        with pytest.raises(DeviceError, match="expected the package cuda-core, found none; pip install"):
            CUDADevice(timing=False)


def test_a_gpu_that_fails_is_an_error_where_it_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with installed() as gpu:
        device = CUDADevice(timing=False)
        stream = device.stream("denoise")
        event = stream.record()
        for call in ("Event.sync", "Event.query", "Device.sync", "Stream.record", "Stream.wait"):
            gpu.faults[call] = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: While executing\na kernel")
        from cuda.bindings.driver import CUresult

        gpu.faults["cuMemcpyAsync"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        a, b = device.buffer("uint8", (1,)), device.buffer("uint8", (1,))
        other = device.stream("other")
        for action in (
            event.synchronize,
            lambda: event.done,
            stream.record,
            lambda: stream.copy((a, b)),
            lambda: other.wait(event, needs=True),
        ):
            with pytest.raises(DeviceError, match=r"(denoise|other).*CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
                action()
            assert "\n" not in str(caught.value)
        device.close()
        assert "closed after an error" in caplog.text


# The sampler's kernel


def numbers(seed: int) -> tuple[list[Array], float, float]:
    chance = np.random.default_rng(seed)
    a, b = chance.standard_normal(2)
    return [chance.standard_normal(SHAPE).astype(np.float32) for _ in range(3)], float(a), float(b)


def on_the_cpu(arrays: list[Array], first: bool, last: bool, a: float, b: float) -> list[Array]:
    buffers = [Buffer("float32", SHAPE, 0, array=array.copy()) for array in arrays]
    latents, total, prediction = buffers
    apply(Update(latents, total, prediction, first, last, a, b))
    results = [buffer.array for buffer in (buffers[:1] if last else buffers)]
    return [array for array in results if array is not None]


@BOTH[0]
@BOTH[1]
def test_updates_are_those_of_the_cpu(device: CUDADevice, first: bool, last: bool) -> None:
    arrays, a, b = numbers(first + 2 * last)
    hosts, there = zip(*(filled(device, array) for array in arrays), strict=True)
    latents, total, prediction = there
    stream = device.stream("sampler")
    stream.copy(*zip(there, hosts, strict=True))
    stream.update([Update(latents, total, prediction, first, last, a, b)])
    backs = [device.host_buffer("float32", SHAPE) for _ in hosts]
    stream.copy(*zip(backs, there, strict=True))
    stream.record().synchronize()
    expected = on_the_cpu(arrays, first, last, a, b)
    for back, array in zip(backs, expected, strict=False):  # the total is nobody's after the last window
        assert back.array is not None
        assert back.array.tobytes() == array.tobytes()


def test_an_update_of_one_window_needs_no_total(device: CUDADevice) -> None:
    arrays, a, b = numbers(0)
    (host, latents), (other, prediction) = filled(device, arrays[0]), filled(device, arrays[2])
    stream = device.stream("sampler")
    stream.copy((latents, host), (prediction, other))
    stream.update([])
    stream.update([Update(latents.rows(1, 3), None, prediction.rows(1, 3), True, True, a, b)])
    stream.copy((host, latents))
    stream.record().synchronize()
    expected = on_the_cpu(arrays, True, True, a, b)[0]
    assert host.array is not None
    assert np.array_equal(host.array[1:], expected[1:])
    assert np.array_equal(host.array[0], arrays[0][0])
    with pytest.raises(AssertionError):
        stream.update([Update(latents, None, prediction, True, False, a, b)])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_the_kernels_source_computes_what_the_cpu_does(tmp_path: Path) -> None:
    """As C++, with threads one after another, some of them past the end; bit for bit."""
    (tmp_path / "update.cpp").write_text(
        "struct Index { unsigned x; };\nstatic Index threadIdx, blockIdx, blockDim;\n#define __global__\n"
        + cuda.UPDATE
        + 'extern "C" void run(float* l, float* t, const float* p, long long n, bool f, bool e, float a, '
        "float b) {"
        "blockDim.x = 32; for (blockIdx.x = 0; blockIdx.x * 32 < n + 64; blockIdx.x++)"
        "for (threadIdx.x = 0; threadIdx.x < 32; threadIdx.x++) update(l, t, p, n, f, e, a, b); }"
    )
    library = tmp_path / "update.so"
    options = ["-O2", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["g++", *options, str(tmp_path / "update.cpp"), "-o", str(library)], check=True)
    run = ctypes.CDLL(str(library)).run
    pointer = ctypes.POINTER(ctypes.c_float)
    run.argtypes = [pointer] * 3 + [ctypes.c_longlong] + [ctypes.c_bool] * 2 + [ctypes.c_float] * 2
    for seed in range(20):
        first, last = bool(seed & 1), bool(seed & 2)
        arrays, a, b = numbers(seed)
        expected = on_the_cpu(arrays, first, last, a, b)
        run(*(array.ctypes.data_as(pointer) for array in arrays), arrays[0].size, first, last, a, b)
        assert all(x.tobytes() == y.tobytes() for x, y in zip(arrays, expected, strict=False))


# Plans


@pytest.fixture(scope="module")
def bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tensorrt_bundle(small_bundle, tmp_path_factory.mktemp("plans") / "bundle"))


class Run:
    """An engine in a context on a stream, with its buffers."""

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
    """What the CPU makes of the same inputs."""

    def __init__(self, path: Path):
        self.bundle = open_bundle(path)
        self.device = CPUDevice()
        self.engines: dict[str, Any] = {}

    def __call__(self, graph: str, inputs: dict[str, Array]) -> dict[str, Array]:
        if graph not in self.engines:
            self.engines[graph] = engine.load_engine(self.bundle, graph, self.device)
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


def test_plain_captured_and_replayed_runs_are_the_cpus(
    gpu: GPU, device: CUDADevice, bundle: Bundle, expected: Expected
) -> None:
    run = Run(device, bundle, POSE_GUIDER)
    for seed in range(4):
        inputs = random_inputs(bundle, POSE_GUIDER, seed)
        check(run(inputs), expected(POSE_GUIDER, inputs))
    assert run.engine.runs == 4
    calls = gpu.calls
    assert calls["IExecutionContext.execute_async_v3"] == 2  # one of them captured
    assert (calls["cuStreamBeginCapture"], calls["cuGraphInstantiate"], calls["cuGraphLaunch"]) == (1, 1, 3)


def test_every_graph_runs_as_on_the_cpu(bundle: Bundle, expected: Expected) -> None:
    with installed(5):
        device = CUDADevice(timing=False)
        for graph in bundle.manifest.graphs:
            inputs = random_inputs(bundle, graph, 7)
            check(Run(device, bundle, graph)(inputs), expected(graph, inputs))
        device.close()


def test_a_steady_state_allocates_and_binds_nothing(gpu: GPU, device: CUDADevice, bundle: Bundle) -> None:
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


def test_graphs_follow_the_buffers_and_are_few(
    gpu: GPU, device: CUDADevice, bundle: Bundle, expected: Expected
) -> None:
    """More sets of buffers than graphs are kept; some of those are let go in flight."""
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
def test_without_graphs_it_goes_on_and_says_so_once(
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
    assert "goes on without CUDA graphs" in warnings[0].getMessage()
    assert not run.context.graphs_enabled
    assert run.engine.runs == 4


def test_graphs_can_be_switched_off(gpu: GPU, device: CUDADevice, bundle: Bundle, expected: Expected) -> None:
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
    assert gpu.calls["cuStreamBeginCapture"] == 0  # none has run yet
    run.stream.record().synchronize()  # a context is kept until its work is done
    gpu.faults["ICudaEngine.create_execution_context"] = RuntimeError("no")
    with pytest.raises(DeviceError, match="cannot make a context: no"):
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
    """On streams and in threads of their own, capturing while the other allocates."""
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


def test_what_may_be_bound(gpu: GPU, device: CUDADevice, bundle: Bundle) -> None:
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


def test_a_workspace_in_two_contexts_at_once_would_be_noticed(
    gpu: GPU, device: CUDADevice, bundle: Bundle
) -> None:
    one, two = Run(device, bundle, TIME_EMBEDDING, "one"), Run(device, bundle, TIME_EMBEDDING, "two")
    two.context = two.engine.context(one.context.workspace)
    two.rebind()
    one.context.enqueue(one.stream)
    with caught(gpu, "no order between an execution"):
        two.context.enqueue(two.stream)
    one.stream.record().synchronize()


def test_a_context_that_is_let_go_while_it_runs_would_be_noticed(
    gpu: GPU, device: CUDADevice, bundle: Bundle
) -> None:
    run = Run(device, bundle, TIME_EMBEDDING)
    run.context.enqueue(run.stream)
    del run.context
    assert "memory is freed that an execution" in str(gpu.memory.mistakes.pop())


# Bundles that are not for here


def changed(bundle: Bundle, folder: Path, plan: bytes | None = None, **manifest: Any) -> Bundle:
    """The bundle with other bytes as the time embedding's plan, or with other words in its manifest."""
    path = folder / "changed"
    shutil.copytree(bundle.path, path)
    if plan is not None:
        (path / "engines" / f"{TIME_EMBEDDING}.plan").write_bytes(plan)
    (path / MANIFEST).unlink()
    seal(path, dataclasses.replace(bundle.manifest, **manifest))
    return open_bundle(path)


@pytest.fixture
def opened() -> Iterator[CUDADevice]:
    with installed():
        device = CUDADevice(timing=False)
        yield device
        device.close()


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        ({"backend_version": "tensorrt 10.12.0"}, "which is installed, found plans of tensorrt 10.12.0"),
        ({"compute_capabilities": ("SM80", "SM89")}, r"expected plans for SM90 .* for SM80, SM89"),
        ({"compute_capabilities": ()}, "expected plans for SM90"),
    ],
)
def test_plans_of_another_version_or_gpu(
    opened: CUDADevice, bundle: Bundle, tmp_path: Path, manifest: dict[str, Any], found: str
) -> None:
    other = changed(bundle, tmp_path, **manifest)
    with pytest.raises(BundleMismatch, match=found) as caught:
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)
    assert "animate-rt build" in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"time_row": ("OUTPUT", "HALF", (1, 8))},
        {"time_row": ("OUTPUT", "FLOAT", (2, 8))},
        {"timestep": ("OUTPUT", "FLOAT", (1,))},
        {"another": ("INPUT", "FLOAT", (1,))},
    ],
)
def test_plans_that_break_the_contract(
    opened: CUDADevice, bundle: Bundle, tmp_path: Path, tensors: dict[str, Any]
) -> None:
    graph = json.loads(
        (bundle.path / "engines" / f"{TIME_EMBEDDING}.plan").read_bytes().removeprefix(plans.MAGIC)
    )["graph"]
    other = changed(bundle, tmp_path, plans.plan(Path(graph), "SM90", **tensors))
    with pytest.raises(BundleMismatch, match=f"{TIME_EMBEDDING}: {next(iter(tensors))}: expected"):
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)


def test_a_plan_of_another_graph(opened: CUDADevice, bundle: Bundle, tmp_path: Path) -> None:
    other = changed(bundle, tmp_path, (bundle.path / "engines" / f"{POSE_GUIDER}.plan").read_bytes())
    with pytest.raises(BundleMismatch, match=r"frame: expected (none|nothing), found"):
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)


@pytest.mark.parametrize("content", [b"", b"junk", plans.plan(Path("x"), "SM80")])
def test_plans_that_cannot_be_loaded(
    opened: CUDADevice, bundle: Bundle, tmp_path: Path, content: bytes
) -> None:
    other = changed(bundle, tmp_path, content)
    with pytest.raises(AnimateError, match=r"cannot (read|load) the plan: .") as caught:
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)
    assert isinstance(caught.value, BundleError if not content else DeviceError)
    (other.path / "engines" / f"{TIME_EMBEDDING}.plan").unlink()
    with pytest.raises(BundleError, match="cannot read the plan"):
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)


def test_the_seam(opened: CUDADevice, bundle: Bundle) -> None:
    assert isinstance(engine.open_device("tensorrt", timing=True), CUDADevice)
    loaded = engine.load_engine(bundle, TIME_EMBEDDING, opened)
    assert loaded.contract == bundle.manifest.graphs[TIME_EMBEDDING]
    assert tensorrt.version() == bundle.manifest.backend_version
