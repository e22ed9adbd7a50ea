"""TensorRT plans on an NVIDIA GPU, through either of TensorRT's two packages.

A context's second run with the same buffers is captured as a CUDA graph, and replayed from then on.
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
from ..bundle import Bundle
from ..device import Buffer, Device, Stream
from ..engine import check_binding
from .device import CUDADevice, CUDAGraph, CUDAStream

LOG = logging.getLogger("animate_rt.tensorrt")
PROVIDERS = ("tensorrt", "tensorrt_rtx")
ALIGNMENT = 256  # bytes, of every address TensorRT is given
MAX_GRAPHS = 8  # per context; each holds some device memory
MAX_REPORTS = 3  # of the errors TensorRT has reported, in a message
DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32"}  # TensorRT's names


def provider() -> ModuleType:
    """The installed package, `tensorrt` first."""
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


def load_plan(bundle: Bundle, graph: str, device: Device) -> TensorRTEngine:
    """Load the plan of one graph. Raises BundleMismatch, BundleError, DeviceError or OutOfMemory."""
    assert isinstance(device, CUDADevice)
    manifest = bundle.manifest
    if manifest.backend_version != version():
        raise BundleMismatch(
            f"{bundle.path}: expected plans of {version()}, which is installed, found plans of "
            f"{manifest.backend_version}; build it again: {manifest.rebuild_command}"
        )
    if device.compute_capability not in manifest.compute_capabilities:
        raise BundleMismatch(
            f"{bundle.path}: expected plans for {device.compute_capability} ({device.description}), found "
            f"plans for {', '.join(manifest.compute_capabilities)}; build it again: "
            f"{manifest.rebuild_command}"
        )
    return TensorRTEngine(bundle, graph)


class TensorRTEngine:
    """A plan on the GPU. Its weights are there once, however many contexts it has."""

    def __init__(self, bundle: Bundle, graph: str):
        trt = provider()
        plan = bundle.path / "engines" / f"{graph}.plan"
        self.graph = graph
        self.contract = bundle.manifest.graphs[graph]
        self.runs = 0
        self.errors = error_recorder(trt)
        self.runtime = trt.Runtime(logger(trt))
        self.runtime.error_recorder = self.errors
        try:
            # Mapped, a plan takes no memory of the process's own: TensorRT reads the file's pages. Its stream
            # readers would copy every piece through a bytes object.
            with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self.engine = self.runtime.deserialize_cuda_engine(content)
        except (OSError, ValueError) as error:  # ValueError: nothing to map
            raise BundleError(f"{plan}: cannot read the plan: {error}; build the bundle again") from error
        if self.engine is None:
            raise self.failure("cannot load the plan")
        self.engine.error_recorder = self.errors
        self._check_tensors(bundle)
        self.activation_bytes = self.engine.device_memory_size_v2

    def context(self, workspace: Buffer | None) -> TensorRTContext:
        """As Engine.context. The context is to be kept until what it has enqueued is done."""
        return TensorRTContext(self, workspace)

    def failure(self, what: str) -> DeviceError:
        """An error of TensorRT's, with the reasons it has reported since the last one."""
        reports = self.errors.take()
        reason = " | ".join(reason for _code, reason in reports) or "it gave no reason"
        if "out of memory" in reason.lower() or any(code == "FAILED_ALLOCATION" for code, _reason in reports):
            return OutOfMemory(f"{self.graph}: TensorRT {what}: {reason}; use a smaller size or window")
        return DeviceError(f"{self.graph}: TensorRT {what}: {reason}")

    def _check_tensors(self, bundle: Bundle) -> None:
        """Raise BundleMismatch unless the plan's inputs and outputs are those of the contract."""
        engine, contract = self.engine, self.contract
        expected = {
            spec.name: f"{mode} {spec.dtype} {spec.shape}"
            for mode, specs in (("input", contract.inputs), ("output", contract.outputs))
            for spec in specs
        }
        found = {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            mode, dtype = engine.get_tensor_mode(name).name.lower(), engine.get_tensor_dtype(name).name
            found[name] = f"{mode} {DTYPES.get(dtype, dtype)} {tuple(engine.get_tensor_shape(name))}"
            if (location := engine.get_tensor_location(name).name) != "DEVICE":
                found[name] += f" on the {location}"
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise BundleMismatch(
                    f"{bundle.path}: plan of {self.graph}: {name}: expected {expected.get(name, 'nothing')}, "
                    f"found {found.get(name, 'nothing')}; build it again: {bundle.manifest.rebuild_command}"
                )


class TensorRTContext:
    """An execution context with its activations in the caller's workspace."""

    graphs_enabled = True  # False: every run is enqueued kernel by kernel

    def __init__(self, engine: TensorRTEngine, workspace: Buffer | None):
        trt = provider()
        self.engine = engine
        self.workspace = workspace
        self.context = engine.engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self.context is None:
            raise engine.failure("cannot make a context")
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
        # By the addresses they were captured with; None until there is one. The workspace never changes.
        self.graphs: OrderedDict[tuple[int, ...], CUDAGraph | None] = OrderedDict()

    def bind(self, name: str, buffer: Buffer) -> None:
        check_binding(self.specs[name], buffer)
        address = buffer.address
        if self.addresses.get(name) == address:
            return
        assert buffer.array is None, f"{name}: in the host's memory"
        if address % ALIGNMENT:
            raise ConfigError(
                f"{name}: expected an address that is a multiple of {ALIGNMENT}, as TensorRT requires, found "
                f"one {address % ALIGNMENT} bytes past; copy these rows into a buffer of their own"
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
        """What is bound has run once, as TensorRT needs before a capture."""
        if self.graphs_enabled and key not in self.graphs:
            self.graphs[key] = None
            if len(self.graphs) > MAX_GRAPHS:
                self.graphs.popitem(last=False)  # the least recently used

    def _graph(self, key: tuple[int, ...], stream: CUDAStream) -> CUDAGraph | None:
        """The graph for what is bound, if that has run before."""
        if key not in self.graphs:
            return None
        self.graphs.move_to_end(key)
        if self.graphs[key] is None:
            try:
                self.graphs[key] = stream.capture(lambda: self._run(stream))
            except DeviceError as error:  # if it is the device that failed, the plain run will say so
                LOG.warning("%s: goes on without CUDA graphs: %s", self.engine.graph, error)
                self.graphs_enabled = False
                self.graphs.clear()
                return None
        return self.graphs[key]


@cache  # TensorRT takes one logger per process, and complains of any other
def logger(trt: Any) -> Any:
    """What TensorRT has to say, in Python's log; its errors go to a recorder instead where there is one."""
    levels = {"WARNING": logging.WARNING, "INFO": logging.DEBUG, "VERBOSE": logging.DEBUG}

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            LOG.log(levels.get(severity.name, logging.ERROR), "%s", message)

    return Logger()


def error_recorder(trt: Any) -> Any:
    """Keeps the last errors that TensorRT has reported, until `take`."""

    class ErrorRecorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.reports: deque[tuple[Any, str]] = deque(maxlen=MAX_REPORTS)

        def take(self) -> list[tuple[str, str]]:
            """Code and reason of each."""
            taken = [(code.name, " ".join(reason.split())) for code, reason in self.reports]
            self.reports.clear()
            return taken

        def report_error(self, code: Any, reason: str) -> bool:
            self.reports.append((code, reason))
            return True  # fatal, whatever it is

        def num_errors(self) -> int:
            return len(self.reports)

        def get_error_code(self, index: int) -> Any:
            return self.reports[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.reports[index][1]

        def has_overflowed(self) -> bool:
            return len(self.reports) == MAX_REPORTS

        def clear(self) -> None:
            self.reports.clear()

    return ErrorRecorder()
