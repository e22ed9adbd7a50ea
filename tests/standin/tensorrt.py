"""The stand-in for `tensorrt` 11: the calls that the project uses, exactly as documented.

A plan is a small JSON document that names an ONNX graph. The CPU backend compiles the graph in float32, so
results are those of the CPU, bit for bit.
"""

from __future__ import annotations

import json
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .memory import ALIGNMENT, POISON, Access
from .streams import GPU, INSTALLED, Task, api, when_gone

__all__ = [
    "DataType",
    "ErrorCodeTRT",
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "ILogger",
    "IProgressMonitor",
    "Runtime",
    "TensorIOMode",
    "TensorLocation",
]
__version__ = "11.1.0.106"
MAGIC = b"stand-in plan\n"
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "UINT8": np.uint8}
OPENVINO = {"f32": "FLOAT", "f16": "HALF", "i32": "INT32", "u8": "UINT8"}

DataType = Enum("DataType", ["FLOAT", "HALF", "INT32", "UINT8"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
ErrorCodeTRT = Enum("ErrorCodeTRT", ["UNSPECIFIED_ERROR", "INTERNAL_ERROR", "FAILED_EXECUTION"])
ExecutionContextAllocationStrategy = Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
)


def plan(graph: Path, capability: str, **tensors: Any) -> bytes:
    """A plan of an ONNX file. `tensors` change what the engine reports: name=(mode, dtype, shape)."""
    document = {
        "version": __version__,
        "capability": capability,
        "graph": str(graph.resolve()),
        "tensors": tensors,
    }
    return MAGIC + json.dumps(document).encode()


class Base:
    """Base of TensorRT's interfaces: Python subclasses have to call its `__init__`."""

    _initialized = False

    def __init__(self) -> None:
        self._initialized = True


class ILogger(Base):
    """Subclasses define `log`, for TensorRT to call."""

    Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
    log: Any = None


class IErrorRecorder(Base):
    """Subclasses define these, for TensorRT to call."""

    report_error = num_errors = get_error_code = get_error_desc = has_overflowed = clear = None


class IProgressMonitor(Base):
    phase_start = step_complete = phase_finish = None


class Reporting:
    """Failed calls return False or None, and report to the error recorder, or to the log without one."""

    gpu: GPU
    logger: Any
    _recorder: Any = None

    @property
    def error_recorder(self) -> Any:
        return self._recorder

    @error_recorder.setter
    def error_recorder(self, recorder: Any) -> None:
        if not isinstance(recorder, IErrorRecorder) or not recorder._initialized:
            raise TypeError("expected an IErrorRecorder whose __init__ has been called")
        self._recorder = recorder

    def _fail(self, why: object) -> None:
        if self._recorder is None:
            self.logger.log(ILogger.Severity.ERROR, f"Error Code 1: {why}")
        else:
            self._recorder.report_error(ErrorCodeTRT.FAILED_EXECUTION, str(why))


class Runtime(Reporting):
    def __init__(self, logger: Any):
        if not isinstance(logger, ILogger) or not logger._initialized:
            raise TypeError("expected an ILogger whose __init__ has been called")
        self.gpu = INSTALLED[0]
        self.logger = logger

    @api(unsafe=True)
    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        with memoryview(serialized_engine) as view:
            content = bytes(view)
        try:
            if not content.startswith(MAGIC):
                raise ValueError("the plan's header does not match")
            document = json.loads(content.removeprefix(MAGIC))
        except ValueError as error:
            self._fail(error)
            return None
        for name, here in (("version", __version__), ("capability", self.gpu.capability)):
            if document[name] != here:
                self._fail(f"the plan is for {name} {document[name]}, expecting {here}")
                return None
        return ICudaEngine(self, compiled(document["graph"]), document["tensors"])


@cache
def compiled(graph: str) -> Any:
    """Cached for the whole session, in which the graphs of bundles do not change."""
    from animate_rt.engines.cpu.openvino import compile_onnx

    return compile_onnx(Path(graph), "fp32")


class ICudaEngine(Reporting):
    def __init__(self, runtime: Runtime, compiled: Any, changes: dict[str, Any]):
        self.gpu, self.logger, self._recorder = runtime.gpu, runtime.logger, runtime._recorder
        self.compiled = compiled
        self.tensors: dict[str, tuple[str, str, tuple[int, ...]]] = {
            port.get_any_name(): (mode, OPENVINO[port.element_type.get_type_name()], tuple(port.shape))
            for mode, ports in (("INPUT", compiled.inputs), ("OUTPUT", compiled.outputs))
            for port in ports
        }
        self.tensors |= {name: (mode, dtype, tuple(shape)) for name, (mode, dtype, shape) in changes.items()}
        results = sum(self._num_bytes(name) for name, (mode, *_) in self.tensors.items() if mode == "OUTPUT")
        self.activations = 2 * ALIGNMENT + -(-results // ALIGNMENT) * ALIGNMENT

    def _num_bytes(self, name: str) -> int:
        _, dtype, shape = self.tensors[name]
        return int(np.prod(shape)) * np.dtype(NUMPY[dtype]).itemsize

    @property
    def device_memory_size_v2(self) -> int:
        return int(self.activations)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[self.tensors[name][0]]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self.tensors[name][1]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][2]

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE if name in self.tensors else None

    @api(unsafe=True)
    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            self.gpu.refuse("a context that allocates memory of its own: expected USER_MANAGED")
        return IExecutionContext(self)


class IExecutionContext(Reporting):
    """Must not run twice at the same time, nor be freed before it has run: a byte stands for it, written by
    every run."""

    def __init__(self, engine: ICudaEngine):
        self.gpu, self.logger, self._recorder = engine.gpu, engine.logger, engine._recorder
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.activations = 0
        self.ran = False
        state = self.gpu.memory.allocate(1, "context")
        self.state = state.address
        when_gone(self.gpu, self, self.gpu.free, state)

    @api()
    def set_device_memory(self, memory: int, size: int) -> None:
        needed = self.engine.device_memory_size_v2
        if size < needed or memory % ALIGNMENT:
            self.gpu.refuse(f"expected {needed} bytes aligned to {ALIGNMENT}, found {size} at {memory:#x}")
        self.gpu.memory.find(memory, size, "set_device_memory", "device")
        self.activations = memory

    @api()
    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.tensors:
            self.gpu.refuse(f"set_tensor_address: no tensor {name}")
        if memory % ALIGNMENT:
            self.gpu.refuse(f"{name}: {memory:#x} is not aligned to {ALIGNMENT}")
        self.addresses[name] = memory
        return True

    @api()
    def execute_async_v3(self, stream_handle: int) -> bool:
        queue = self.gpu.queue(int(stream_handle))
        accesses = self._accesses()
        if queue.capture is not None:
            if not self.ran:
                self.gpu.refuse("capture of a context that has never run")
            queue.capture.valid &= not self.gpu.uncapturable
            if self.gpu.uncapturable == "run":
                self._fail("operation not permitted when stream is capturing")
                return False
        self.ran = True
        engine, addresses, block, memory = (
            self.engine,
            dict(self.addresses),
            self.activations,
            self.gpu.memory,
        )
        name = f"an execution of {engine.compiled.inputs[0].get_any_name()}"

        def run() -> None:  # does not keep the context alive
            memory.view(block, engine.device_memory_size_v2, name)[:] = POISON
            compute(engine, {n: memory.view(addresses[n], engine._num_bytes(n), n) for n in engine.tensors})

        self.gpu.enqueue(queue, Task(name, run, accesses))
        return True

    def _accesses(self) -> list[Access]:
        """The accesses of a run: to the state, the activations and every tensor."""
        engine, find = self.engine, self.gpu.memory.find
        if missing := engine.tensors.keys() - self.addresses.keys():
            self.gpu.refuse(f"no address for {sorted(missing)}")
        if not self.activations:
            self.gpu.refuse("no memory for activations")
        block = Access(self.activations, self.activations + engine.device_memory_size_v2, True)
        written, read = [Access(self.state, self.state + 1, True), block], list[Access]()
        for name, (mode, *_) in engine.tensors.items():
            start, size = self.addresses[name], engine._num_bytes(name)
            find(start, size, name, "device")
            (written if mode == "OUTPUT" else read).append(Access(start, start + size, mode == "OUTPUT"))
        for i, one in enumerate(written):
            if any(one.overlaps(other) for other in (*written[i + 1 :], *read)):
                self.gpu.refuse("outputs, activations and inputs of a context lie in the same memory")
        return read + written


def compute(engine: ICudaEngine, memory: dict[str, Any]) -> None:
    from animate_rt.engines.cpu.openvino import import_openvino

    ov = import_openvino()
    request = engine.compiled.create_infer_request()
    for name, (_, dtype, shape) in engine.tensors.items():
        array = memory[name].view(NUMPY[dtype]).reshape(shape)
        request.set_tensor(name, ov.Tensor(array, shared_memory=True))
    request.infer()
