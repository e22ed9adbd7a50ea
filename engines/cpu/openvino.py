"""Runs graphs on the CPU with OpenVINO, which compiles them when they are loaded."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Event, Lock
from typing import Any, cast
from weakref import WeakSet

import numpy as np

from ...errors import AnimateError, DeviceError, OutOfMemory, Rejected
from ...text import escaped, message_of, one_line
from ..bundle import SealedBundle
from ..contract import TIME_EMBEDDING, Contract, DType, TensorSpec
from ..device import Buffer, Stream
from ..engine import check_binding
from ..manifest import WEIGHTS
from ..precision import Precision
from ..tensors import check_tensors
from .compiled_cache import compiled_cache
from .device import CPUStream
from .passes.attention import attention_keys_first
from .passes.convolution import convolution_without_idle_strides
from .passes.group_norm import group_norm_by_channel
from .passes.upsampling import convolution_before_upsampling
from .saved_graph import check_saved_graph

CONVERTER = "openvino.tools.ovc"
# Graphs with a fixed precision: bfloat16 would round the timestep's angles, up to 999, to whole numbers.
EXACT: dict[str, Precision] = {TIME_EMBEDDING: "fp32"}
# Graph passes: each gives an equivalent graph that the CPU computes faster.
BEFORE_DOUBLING, BY_CHANNEL = "convolutions before doubling", "group normalisation by channel"
KEYS_FIRST = "keys first where they are few"
PASSES: dict[str, Callable[[Any], Any]] = {
    BEFORE_DOUBLING: convolution_before_upsampling,
    BY_CHANNEL: group_norm_by_channel,
    KEYS_FIRST: attention_keys_first,
}
IMPORTING = Lock()
USED = Event()  # set when OpenVINO may have threads in this process
FORKED = Event()  # set in a fork of such a process, which lacks those threads
COMPILED: WeakSet[Any] = WeakSet()  # models that exist in this process
MESSAGE = 400  # characters of OpenVINO's message in ours
INSTALL = "pip install 'animate-rt[cpu]'"


def precision_of(graph: str, precision: Precision) -> Precision:
    """The precision in which a graph computes, in a bundle of `precision`."""
    return EXACT.get(graph, precision)


def version() -> str:
    try:
        return f"openvino {metadata.version('openvino')}"
    except metadata.PackageNotFoundError:
        raise DeviceError(f"backend openvino: expected the package openvino, found none; {INSTALL}") from None


def import_openvino() -> Any:
    """Import OpenVINO without its model converter, which reports each import over the network and writes to
    the user's home directory. OpenVINO works without the converter if it cannot be imported."""
    with IMPORTING:
        if "openvino" in sys.modules:
            openvino = importlib.import_module("openvino")  # waits if another thread is still importing it
        else:
            sys.modules[CONVERTER] = None  # type: ignore[assignment]
            try:
                openvino = importlib.import_module("openvino")
            finally:
                del sys.modules[CONVERTER]
        # The first call of each kind fills a table of types. Two threads that make it at the same time can
        # wait for each other for ever: one holds the table's lock, the other the interpreter's.
        openvino.Type.f32.to_dtype()
        openvino.Tensor(np.zeros(1, np.float32))
    return openvino


def load_graph(bundle: SealedBundle, graph: str, *, cached: bool = True) -> OpenVINOEngine:
    """Compile one graph of a bundle, or load it from the cache of compiled graphs.

    Raises BundleCorrupt, BundleMismatch, DeviceError or OutOfMemory.
    """
    check_saved_graph(bundle.engine(graph), (bundle.path / WEIGHTS).stat().st_size)
    precision = precision_of(graph, bundle.manifest.precision)
    with compiling(graph, "use a smaller size or window", "build the bundle again"):
        if cached:
            compiled = load_or_compile(bundle, graph, precision)
        else:
            compiled = compile_graph(bundle.engine(graph), bundle.path / WEIGHTS, precision)
        check_tensors(bundle, graph, described(compiled, bundle.manifest.graphs[graph]))
    return OpenVINOEngine(compiled, bundle.manifest.graphs[graph])


def load_model_file(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> OpenVINOEngine:
    """Compile a model file of a format that OpenVINO reads itself, such as .tflite, in float32.

    Its contract is read from the file; `shapes` are those of inputs whose shape it leaves open. Raises
    DeviceError or OutOfMemory.
    """
    with compiling(escaped(path.name), "close other programs", "use another version of openvino"):
        core = new_core()
        model = core.read_model(path)
        if shapes:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        compiled = compile_model(core, model, "fp32")
        return OpenVINOEngine(compiled, Contract(specs_of(compiled.inputs), specs_of(compiled.outputs)))


@contextmanager
def compiling(name: str, if_large: str, if_unknown: str) -> Iterator[None]:
    """Turn what OpenVINO raises while it compiles into the errors of errors.py."""
    version()
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"{name}: no room to compile it; {if_large}") from error
    except AnimateError:
        raise
    except Exception as error:  # of many classes, for a graph that it does not understand
        raise DeviceError(f"{name}: openvino cannot compile it: {reason(error)}; {if_unknown}") from error


class OpenVINOEngine:
    """One compiled graph. Inputs and outputs have the contract's dtypes even if it computes in bfloat16."""

    def __init__(self, compiled: Any, contract: Contract):
        self.compiled, self.contract = compiled, contract
        self.tensor = import_openvino().Tensor
        self.activation_bytes = 0  # OpenVINO allocates its own
        self.runs = 0

    def context(self, _workspace: Buffer | None) -> OpenVINOContext:
        return OpenVINOContext(self)


class OpenVINOContext:
    """An infer request that uses the caller's buffers without copying them."""

    def __init__(self, engine: OpenVINOEngine):
        self.engine = engine
        self.request = engine.compiled.create_infer_request()
        contract = engine.contract
        self.specs: dict[str, TensorSpec] = {
            spec.name: spec for spec in (*contract.inputs, *contract.outputs)
        }
        self.bound: dict[str, Buffer] = {}
        self.in_use: dict[str, Buffer] = {}  # set on the request; the worker thread runs later than `bind`

    def bind(self, name: str, buffer: Buffer) -> None:
        if self.bound.get(name) is not buffer:
            check_binding(self.specs[name], buffer)
            self.bound[name] = buffer

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, CPUStream)
        missing = self.specs.keys() - self.bound.keys()
        assert not missing, f"not bound: {sorted(missing)}"
        stream.call(partial(self.run, dict(self.bound)))

    def run(self, bound: dict[str, Buffer]) -> None:
        """Run the graph, on the worker thread of the stream."""
        try:
            for name, buffer in bound.items():
                if self.in_use.get(name) is not buffer:
                    self.request.set_tensor(name, self.engine.tensor(buffer.array, shared_memory=True))
                    self.in_use[name] = buffer
            self.request.infer()
        except MemoryError as error:
            raise OutOfMemory("openvino has no room to run; use a smaller size or window") from error
        except Exception as error:
            raise DeviceError(f"openvino failed: {reason(error)}") from error
        self.engine.runs += 1


def specs_of(ports: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a compiled model, which have static shapes."""
    return tuple(
        TensorSpec(port.any_name, cast("DType", str(port.element_type.to_dtype())), tuple(port.shape))
        for port in ports
    )


def described(compiled: Any, contract: Contract) -> dict[str, str]:
    """Inputs and outputs of a compiled model, each under that of its names which is in the contract."""
    names = {spec.name for spec in (*contract.inputs, *contract.outputs)}
    found = {}
    for kind, ports in (("input", compiled.inputs), ("output", compiled.outputs)):
        for port in ports:
            shape = tuple(port.shape) if port.partial_shape.is_static else port.partial_shape
            name = next(iter(port.names & names), port.any_name)
            found[name] = f"{kind} {port.element_type.to_dtype()} {shape}"
    return found


def reason(error: Exception) -> str:
    """OpenVINO's message in one line. One that is not UTF-8 arrives as the error of decoding it."""
    if isinstance(error, UnicodeDecodeError):
        return one_line(error.object.decode("utf-8", "backslashreplace"), MESSAGE)
    return one_line(message_of(error), MESSAGE)


def after_fork() -> None:
    """Let a forked child end without OpenVINO's threads, which it does not have.

    Freeing a compiled model waits for them, so those of the parent process are kept. So does the exit handler
    of TBB, now and then, so the child ends before that handler: glibc calls the last registered one first.
    """
    for compiled in COMPILED:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(compiled))
    if USED.is_set():
        FORKED.set()
        c_library = ctypes.CDLL(None)
        if hasattr(c_library, "on_exit"):
            c_library.on_exit(c_library._exit, None)  # with the exit status
            c_library.on_exit(c_library.fcloseall, None)  # before it: writes what C files still hold


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


def new_core() -> Any:
    """Return an openvino.Core.

    Raises Rejected in a fork of a process that has used OpenVINO. Compiling there may wait for ever, for
    threads and locks of the parent process.
    """
    if FORKED.is_set():
        raise Rejected(
            "openvino: expected a new process, found a fork of one that has used OpenVINO; "
            "start processes with multiprocessing's method spawn, or fork them before a bundle is loaded"
        )
    USED.set()
    return import_openvino().Core()


def load_or_compile(bundle: SealedBundle, graph: str, precision: Precision) -> Any:
    """Load a graph of a bundle from the cache of compiled graphs, or compile it."""
    path, weights = bundle.engine(graph), bundle.path / WEIGHTS
    cache = compiled_cache()
    if cache is None:
        return compile_graph(path, weights, precision)
    core, files = new_core(), bundle.manifest.files
    key = {
        "graph": files[bundle.manifest.engine(graph)].sha256,
        "weights": files[WEIGHTS].sha256,
        "precision": precision,
        "openvino": import_openvino().get_version(),
        "processor": processor(core),
        "threads": len(os.sched_getaffinity(0)),  # what is compiled is made for so many
        "options": str(options(core, precision)),
    }

    def load(content: Any) -> Any:
        tensor = import_openvino().Tensor(content, shared_memory=True)
        compiled = core.import_model(tensor, "CPU", options(core, precision))
        compiled.content = content  # which must stay mapped
        COMPILED.add(compiled)
        return compiled

    def make(folder: str) -> Any:
        compiled = compile_graph(path, weights, precision, folder)
        bundle.verify()  # only what was made of the files in the key may be kept under it
        return compiled

    return cache.get(key, weights.stat().st_size, load, make)


def processor(core: Any) -> str:
    """The processor as OpenVINO knows it, and what it can do."""
    properties = "FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"
    known = [str(core.get_property("CPU", name)) for name in properties]
    with suppress(OSError):  # only on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return "; ".join(known)


def compile_graph(path: Path, weights: Path, precision: Precision, folder: str = "") -> Any:
    """Compile a graph of a bundle, saved after the graph passes, for the CPU. Its weights are mapped.

    The result is also written to `folder`, if there is one, as a file that OpenVINO names.
    """
    core = new_core()
    if folder:
        core.set_property({"CACHE_DIR": folder})
    return compile_model(core, core.read_model(path, weights), precision)


def compile_onnx(path: Path, precision: Precision, passes: Collection[str] = tuple(PASSES)) -> Any:
    """Compile an ONNX file for the CPU, after some of the graph passes."""
    core = new_core()
    return compile_model(core, apply_passes(core.read_model(path), passes), precision)


def apply_passes(model: Any, passes: Collection[str] = tuple(PASSES)) -> Any:
    """Apply graph passes to an openvino.Model, which they change, and return it."""
    for name in passes:
        model = PASSES[name](model)
    return convolution_without_idle_strides(model)  # one of the kernels for bfloat16 is wrong


def compile_model(core: Any, model: Any, precision: Precision) -> Any:
    """Compile an openvino.Model for the CPU."""
    compiled = core.compile_model(model, "CPU", options(core, precision))
    COMPILED.add(compiled)
    return compiled


def options(core: Any, precision: Precision) -> dict[str, Any]:
    """Options of a compiled model. They set the precision: by default OpenVINO chooses bfloat16 if the CPU
    supports it. Raises DeviceError if the CPU does not support bfloat16."""
    ov = import_openvino()
    if precision == "bf16" and not has_bfloat16(core):
        raise DeviceError(
            "expected a CPU that computes in bfloat16, found none; build the bundle with --precision fp32"
        )
    hint = ov.properties.hint
    return {
        # Other processes may use the same cores. Threads that cannot move away from them are no faster when
        # there is no other process, and slower when there is one.
        hint.enable_cpu_pinning: False,
        hint.inference_precision: getattr(ov.Type, float_type(core, precision)),
        hint.performance_mode: hint.PerformanceMode.LATENCY,
    }


def float_type(core: Any, precision: Precision) -> str:
    """The type in which floats are computed: in int8, of what is not quantized."""
    in_bfloat16 = precision == "bf16" or (precision == "int8" and has_bfloat16(core))
    return "bf16" if in_bfloat16 else "f32"


def has_bfloat16(core: Any) -> bool:
    """Whether the CPU computes in bfloat16."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
