"""Runs TensorRT plans on an NVIDIA GPU, with either of TensorRT's two packages.

The second run of a context with the same buffers is captured as a CUDA graph, which later runs replay.
"""

from __future__ import annotations

import importlib
import logging
import mmap
from collections import OrderedDict, deque
from functools import cache
from types import ModuleType
from typing import Any

from ...errors import BundleError, BundleMismatch, ConfigError, DeviceError, OutOfMemory
from ...text import escaped, one_line
from ..bundle import SealedBundle
from ..device import Buffer, Device, Stream
from ..engine import check_binding
from ..tensors import check_tensors
from .device import CUDADevice, CUDAGraph, CUDAStream

LOG = logging.getLogger("animate_rt.tensorrt")
PROVIDERS = ("tensorrt", "tensorrt_rtx")
ALIGNMENT = 256  # of every address passed to TensorRT, in bytes
MAX_GRAPHS = 8  # per context; each holds some device memory
MAX_REPORTS = 3  # of TensorRT, in one error message
MESSAGE = 400  # characters of each
DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32"}  # TensorRT's names


def provider() -> ModuleType:
    """The installed TensorRT package, `tensorrt` if both are. Raises DeviceError if neither is."""
    for name in PROVIDERS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DeviceError(
        "backend tensorrt: expected the package tensorrt or tensorrt_rtx, found neither; "
        "pip install 'animate-rt[tensorrt]', or 'animate-rt[tensorrt-rtx]' to build without a GPU"
    )


def version() -> str:
    trt = provider()
    return f"{trt.__name__} {trt.__version__}"


def load_plan(bundle: SealedBundle, graph: str, device: Device) -> TensorRTEngine:
    """Load the plan of one graph. Raises BundleMismatch, BundleError, DeviceError or OutOfMemory."""
    assert isinstance(device, CUDADevice)
    manifest = bundle.manifest
    if manifest.backend_version != version():
        raise BundleMismatch(
            f"{escaped(str(bundle.path))}: expected plans of {version()}, which is installed, found plans of "
            f"{manifest.backend_version}; build it again: {manifest.rebuild_command}"
        )
    if device.compute_capability not in manifest.compute_capabilities:
        raise BundleMismatch(
            f"{escaped(str(bundle.path))}: expected plans for {device.compute_capability} "
            f"({device.description}), found plans for {', '.join(manifest.compute_capabilities)}; "
            f"build it again: {manifest.rebuild_command}"
        )
    return TensorRTEngine(bundle, graph)


class TensorRTEngine:
    """A plan loaded on the GPU. All its contexts share one copy of the weights."""

    def __init__(self, bundle: SealedBundle, graph: str):
        trt = provider()
        plan = bundle.path / "engines" / f"{graph}.plan"
        self.graph = graph
        self.contract = bundle.manifest.graphs[graph]
        self.runs = 0
        self.errors = error_recorder(trt)
        self.runtime = trt.Runtime(logger(trt))
        self.runtime.error_recorder = self.errors
        try:
            # Memory-mapped, so that the plan needs no memory of the process: TensorRT reads the file's pages.
            # Its stream readers would copy every piece through a bytes object.
            with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self.engine = self.runtime.deserialize_cuda_engine(content)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise BundleError(
                f"{escaped(str(plan))}: cannot read the plan: {one_line(str(error), MESSAGE)}; "
                "build the bundle again"
            ) from error
        if self.engine is None:
            raise self.failure("cannot load the plan")
        self.engine.error_recorder = self.errors
        check_tensors(bundle, graph, self._tensors())
        self.activation_bytes = self.engine.device_memory_size_v2

    def context(self, workspace: Buffer | None) -> TensorRTContext:
        """As Engine.context. Keep the context until the work it has enqueued is done."""
        return TensorRTContext(self, workspace)

    def failure(self, what: str) -> DeviceError:
        """The error to raise when TensorRT fails, with the reasons it has reported since the last failure."""
        reports = self.errors.take()
        reason = " | ".join(reason for _code, reason in reports) or "it gave no reason"
        if "out of memory" in reason.lower() or any(code == "FAILED_ALLOCATION" for code, _reason in reports):
            return OutOfMemory(f"{self.graph}: TensorRT {what}: {reason}; use a smaller size or window")
        return DeviceError(f"{self.graph}: TensorRT {what}: {reason}")

    def _tensors(self) -> dict[str, str]:
        """The plan's inputs and outputs by name."""
        engine, found = self.engine, {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            mode, dtype = engine.get_tensor_mode(name).name.lower(), engine.get_tensor_dtype(name).name
            found[name] = f"{mode} {DTYPES.get(dtype, dtype)} {tuple(engine.get_tensor_shape(name))}"
            if (location := engine.get_tensor_location(name).name) != "DEVICE":
                found[name] += f" on the {location}"
        return found


class TensorRTContext:
    """An execution context whose activations are in the caller's workspace."""

    graphs_enabled = True  # False: every run is enqueued kernel by kernel

    def __init__(self, engine: TensorRTEngine, workspace: Buffer | None):
        trt = provider()
        self.engine = engine
        self.workspace = workspace
        self.context = engine.engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self.context is None:
            raise engine.failure("cannot create an execution context")
        self.context.error_recorder = engine.errors
        if size := engine.activation_bytes:
            assert workspace is not None
            assert workspace.dtype == "uint8"
            assert workspace.num_bytes >= size, f"{workspace.num_bytes} < {size}"
            assert workspace.address % ALIGNMENT == 0
            self.context.set_device_memory(workspace.address, workspace.num_bytes)
        contract = engine.contract
        self.specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
        self.addresses: dict[str, int] = {}
        # By the addresses of the bound buffers; None after the first run, until the capture. The workspace
        # never changes, so it is not part of the key.
        self.graphs: OrderedDict[tuple[int, ...], CUDAGraph | None] = OrderedDict()

    def bind(self, name: str, buffer: Buffer) -> None:
        check_binding(self.specs[name], buffer)
        address = buffer.address
        if self.addresses.get(name) == address:
            return
        assert buffer.array is None, f"{name}: in host memory"
        if address % ALIGNMENT:
            raise ConfigError(
                f"{name}: expected an address that is a multiple of {ALIGNMENT}, as TensorRT requires, found "
                f"one {address % ALIGNMENT} bytes past it; copy these rows into a separate buffer"
            )
        if not self.context.set_tensor_address(name, address):
            raise self.engine.failure(f"cannot bind {name}")
        self.addresses[name] = address

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, CUDAStream)
        missing = self.specs.keys() - self.addresses.keys()
        assert not missing, f"not bound: {sorted(missing)}"
        key = tuple(self.addresses[name] for name in self.specs)
        graph = self._graph(key, stream) if self.graphs_enabled else None
        if graph is not None:
            graph.launch(stream)
        else:
            self._run(stream)
            self._warm(key)
        self.engine.runs += 1

    def _run(self, stream: CUDAStream) -> None:
        if not self.context.execute_async_v3(stream.handle):
            raise self.engine.failure("cannot run")

    def _warm(self, key: tuple[int, ...]) -> None:
        """Record that the bound buffers have been used in one run, which TensorRT needs before a capture."""
        if self.graphs_enabled and key not in self.graphs:
            self.graphs[key] = None
            if len(self.graphs) > MAX_GRAPHS:
                self.graphs.popitem(last=False)  # the least recently used

    def _graph(self, key: tuple[int, ...], stream: CUDAStream) -> CUDAGraph | None:
        """The CUDA graph for the bound buffers, or None in their first run. It is captured in the second."""
        if key not in self.graphs:
            return None
        self.graphs.move_to_end(key)
        if self.graphs[key] is None:
            try:
                self.graphs[key] = stream.capture(lambda: self._run(stream))
            except DeviceError as error:  # if the device has failed, the plain run raises again
                LOG.warning("%s: continues without CUDA graphs: %s", self.engine.graph, error)
                self.graphs_enabled = False
                self.graphs.clear()
                return None
        return self.graphs[key]


@cache  # TensorRT accepts one logger per process, and warns about any other
def logger(trt: Any) -> Any:
    """Forwards TensorRT's messages to Python's logging. Errors go to the error recorder, if one is set."""
    levels = {"WARNING": logging.WARNING, "INFO": logging.DEBUG, "VERBOSE": logging.DEBUG}

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            LOG.log(levels.get(severity.name, logging.ERROR), "%s", one_line(message))

    return Logger()


def error_recorder(trt: Any) -> Any:
    """Keeps the last MAX_REPORTS errors that TensorRT has reported, until `take`."""

    class ErrorRecorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.reports: deque[tuple[Any, str]] = deque(maxlen=MAX_REPORTS)
            self.overflowed = False  # a report was dropped for a later one

        def take(self) -> list[tuple[str, str]]:
            """Remove the errors; return the code and reason of each."""
            taken = [(code.name, one_line(reason, MESSAGE)) for code, reason in self.reports]
            self.clear()
            return taken

        def report_error(self, code: Any, reason: str) -> bool:
            self.overflowed = self.overflowed or len(self.reports) == MAX_REPORTS
            self.reports.append((code, reason))
            return True  # treat every error as fatal

        def num_errors(self) -> int:
            return len(self.reports)

        def get_error_code(self, index: int) -> Any:
            return self.reports[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.reports[index][1]

        def has_overflowed(self) -> bool:
            return self.overflowed

        def clear(self) -> None:
            self.reports.clear()
            self.overflowed = False

    return ErrorRecorder()
