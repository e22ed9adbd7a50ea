"""The stand-in for TensorRT: it finds mistakes with engines and execution contexts."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from .program import Program, capture, instantiate
from .standin import caught
from .standin import tensorrt as plans


class Engine:
    """A loaded plan of the case's pose guider, with buffers for its tensors."""

    def __init__(self, program: Program, content: bytes):
        import tensorrt as trt

        class Log(trt.ILogger):  # type: ignore[misc]
            def log(self, severity: Any, message: str) -> None:
                pass

        self.program, self.trt = program, trt
        self.runtime = trt.Runtime(Log())
        self.engine = self.runtime.deserialize_cuda_engine(content)
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.buffers = {name: program.memory(self.engine._num_bytes(name)) for name in names}

    def context(self, block: int | None = None) -> Any:
        context = self.engine.create_execution_context(
            self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        size = self.engine.device_memory_size_v2
        context.set_device_memory(block or self.program.memory(size), size)
        for name, address in self.buffers.items():
            assert context.set_tensor_address(name, address)
        return context


@pytest.fixture
def engine(program: Program, small_bundle: Path) -> Engine:
    return Engine(program, plans.plan(small_bundle / "graphs" / "pose_guider.onnx", "SM90"))


def test_an_engine_describes_its_tensors(engine: Engine, small: Any) -> None:
    trt, real = engine.trt, engine.engine
    assert {name: real.get_tensor_mode(name) for name in engine.buffers} == {
        "frame": trt.TensorIOMode.INPUT,
        "pose_features": trt.TensorIOMode.OUTPUT,
    }
    assert real.get_tensor_shape("frame") == (1, small.height, small.width, 3)
    assert real.get_tensor_dtype("frame") is trt.DataType.UINT8
    assert real.device_memory_size_v2 > 0


def test_runs_of_a_context_must_be_ordered(engine: Engine) -> None:
    program, context = engine.program, engine.context()
    one, two = program.device.create_stream(), program.device.create_stream()
    assert context.execute_async_v3(int(one.handle))
    with caught(program.gpu, "no order between an execution"):
        context.execute_async_v3(int(two.handle))
    program.device.sync()


def test_runs_that_share_activation_memory_must_be_ordered(engine: Engine) -> None:
    program = engine.program
    block = program.memory(engine.engine.device_memory_size_v2)
    one, two = program.device.create_stream(), program.device.create_stream()
    contexts = [engine.context(block), engine.context(block)]
    result = program.memory(engine.engine._num_bytes("pose_features"))
    contexts[1].set_tensor_address("pose_features", result)
    contexts[0].execute_async_v3(int(one.handle))
    with caught(program.gpu, "no order between an execution .* and an execution"):
        contexts[1].execute_async_v3(int(two.handle))
    two.wait(program.record(one))
    contexts[1].execute_async_v3(int(two.handle))
    two.sync()


def test_wrong_bindings_of_a_context(engine: Engine) -> None:
    gpu, program, context = engine.program.gpu, engine.program, engine.context()
    size = engine.engine.device_memory_size_v2
    with caught(gpu, "not aligned to 256"):
        context.set_tensor_address("frame", engine.buffers["frame"] + 4)
    with caught(gpu, "no tensor picture"):
        context.set_tensor_address("picture", engine.buffers["frame"])
    with caught(gpu, f"expected {size} bytes"):
        context.set_device_memory(engine.buffers["frame"], size - 1)
    handle = int(program.pool.handle)
    context.set_tensor_address("frame", program.pinned()[0])
    with caught(gpu, "end outside|found host memory"):
        context.execute_async_v3(handle)
    context.set_tensor_address("frame", engine.buffers["pose_features"])
    with caught(gpu, "lie in the same memory|end outside"):
        context.execute_async_v3(handle)
    with caught(gpu, "is no stream's handle"):
        engine.context().execute_async_v3(0)
    bare = engine.engine.create_execution_context(engine.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    with caught(gpu, r"no address for \['frame', 'pose_features'\]"):
        bare.execute_async_v3(handle)
    with caught(gpu, "memory of its own"):
        engine.engine.create_execution_context(engine.trt.ExecutionContextAllocationStrategy.STATIC)


def test_a_context_must_not_be_destroyed_before_it_has_run(engine: Engine) -> None:
    context = engine.context()
    context.execute_async_v3(int(engine.program.pool.handle))
    del context
    gc.collect()
    assert "may still use" in str(engine.program.gpu.memory.mistakes.pop())


def test_a_context_must_not_be_captured_before_it_has_run(engine: Engine) -> None:
    program, context, stream = engine.program, engine.context(), engine.program.device.create_stream()
    capture(program, stream)
    with caught(program.gpu, "has never run"):
        context.execute_async_v3(int(stream.handle))
    instantiate(program, stream)
    assert context.execute_async_v3(int(stream.handle))
    program.gpu.uncapturable = "run"
    capture(program, stream)
    assert not context.execute_async_v3(int(stream.handle))
    assert program.driver.cuStreamEndCapture(stream.handle) == (901, None)
    assert context.execute_async_v3(int(stream.handle))
    stream.sync()


@pytest.mark.parametrize("content", [b"junk", plans.MAGIC + b"{", plans.plan(Path("x"), "SM80")])
@pytest.mark.usefixtures("program")
def test_plans_that_are_refused(content: bytes) -> None:
    import tensorrt as trt

    reports: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, _message: str) -> None:
            reports.append(severity.name)

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def report_error(self, _code: Any, reason: str) -> bool:
            reports.append(reason)
            return True

    runtime = trt.Runtime(Log())
    assert runtime.deserialize_cuda_engine(content) is None
    assert reports == ["ERROR"]
    runtime.error_recorder = Recorder()
    assert runtime.deserialize_cuda_engine(content) is None
    assert len(reports) == 2
