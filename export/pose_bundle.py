"""Builds a pose bundle from ONNX files: a YOLOX detector and a whole-body network of 133 points.

The files are recognised by their inputs and outputs, so their names do not matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..engines.backends import load_engine, open_device
from ..engines.bundle import new_bundle, seal
from ..engines.contract import Contract, Memory
from ..engines.cpu import openvino
from ..engines.cuda import tensorrt
from ..engines.cuda.plan import PlanOptions, compute_capabilities
from ..engines.files import hashed, read_bytes
from ..engines.graph_file import MAX_GRAPH, weight_files
from ..engines.pose_bundle import (
    COLUMNS,
    DETECTOR,
    LANDMARKS,
    POINTS,
    Kind,
    PoseManifest,
    PoseNetworks,
    open_pose_bundle,
)
from ..engines.precision import DEFAULT_PRECISION, Backend
from ..errors import BuildError, CheckpointError, ConfigError, InputMissing
from ..text import escaped, message_of, one_line, quoted
from .saved_graphs import save_graphs
from .weight_file import WEIGHTS, WeightFile, strip_metadata

MAX_FILES = 50  # ONNX files in a directory
MAX_NETWORK = 1 << 30  # bytes of an ONNX file, most of which are weights
MESSAGE = 400  # characters of onnx_ir's message in ours
EXPECTED = (
    "a YOLOX detector (input 1,3,S,S; output 1,cells,85) and a whole-body network of 133 points "
    "(two SimCC outputs, or heatmaps)"
)
Shape = tuple[Any, ...]  # numbers, and None where the file does not say


@dataclass(slots=True)
class Network:
    """An ONNX file that has been read."""

    path: Path
    model: ir.Model

    @property
    def inputs(self) -> list[ir.Value]:
        """Inputs that are not weights: old files list those too."""
        graph = self.model.graph
        return [value for value in graph.inputs if value.name not in graph.initializers]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the picture that it takes, or None if it takes something else."""
        shapes = [shape(value) for value in self.inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] not in (1, None) or shapes[0][1] != 3:
            return None
        height, width = shapes[0][2:]
        return (height, width) if height and width and is_float(self.inputs[0]) else None

    @property
    def kind(self) -> Kind | None:
        """What it returns, if it is a whole-body network."""
        shapes = [shape(value) for value in self.model.graph.outputs]
        if not all(len(each) > 1 and each[0] in (1, None) and each[1] in (POINTS, None) for each in shapes):
            return None
        ranks = [len(each) for each in shapes]
        return "simcc" if ranks == [3, 3] else "heatmaps" if ranks == [4] else None

    @property
    def is_detector(self) -> bool:
        shapes = [shape(value) for value in self.model.graph.outputs]
        return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == COLUMNS

    def __str__(self) -> str:
        values = (*self.inputs, *self.model.graph.outputs)
        parts = [",".join("?" if side is None else str(side) for side in shape(value)) for value in values]
        return f"{quoted(self.path.name)} ({'; '.join(parts[:4])})"


def build_pose_bundle(
    directory: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    backend: Backend = "openvino",
    plans: PlanOptions | None = None,
    progress: Callable[[str], None] = lambda _what: None,
) -> None:
    """Make a pose bundle of the two ONNX files in a directory, which may have weights in files beside them.

    `plans` is only for backend tensorrt. `progress` is called at the start of each step and repeatedly while
    a plan is compiled; an exception from it stops the build. An existing bundle is replaced at the end.

    Raises InputMissing, ConfigError, CheckpointError, BuildError, DeviceError or OutputError, and then leaves
    the path as it was.
    """
    if backend not in tuple(DEFAULT_PRECISION):
        raise ConfigError(f"backend: expected one of {', '.join(DEFAULT_PRECISION)}, found {quoted(backend)}")
    if plans and backend != "tensorrt":
        raise ConfigError("plans: expected only with backend tensorrt, found with openvino")
    plans = plans or PlanOptions()
    backend_version = {"openvino": openvino, "tensorrt": tensorrt}[backend].version()
    capabilities = compute_capabilities(plans) if backend == "tensorrt" else ()
    progress("read the networks")
    detector, landmarks, networks = find_networks(Path(directory))
    contracts = networks.contracts()
    with new_bundle(bundle) as folder:
        memory: dict[str, Memory | None] = {}
        (folder / "graphs").mkdir()
        with (folder / "graphs" / WEIGHTS).open("wb") as file:
            weights = WeightFile(file, halve=backend == "openvino")
            for graph, network in ((DETECTOR, detector), (LANDMARKS, landmarks)):
                progress(f"write {graph}")
                adapt(network, contracts[graph])
                write(network, weights, folder / "graphs" / f"{graph}.onnx")
            if backend == "openvino":
                memory |= save_graphs(
                    folder, contracts, weights, "fp32", lambda graph: progress(f"save {graph}")
                )
        if backend == "tensorrt":
            from .plans import compile_graph

            (folder / "engines").mkdir()
            for graph in contracts:
                memory[graph] = compile_graph(folder, graph, plans, progress)
        known = {graph: needed for graph, needed in memory.items() if needed}
        manifest = PoseManifest(
            networks=networks,
            backend=backend,
            backend_version=backend_version,
            compute_capabilities=capabilities,
            memory=known if known.keys() == memory.keys() else {},
            precision="fp32",
            weights={
                g: hashed(n.path).file.sha256 for g, n in ((DETECTOR, detector), (LANDMARKS, landmarks))
            },
            graphs=contracts,
        )
        progress("seal")
        seal(folder, manifest)
        check(folder, progress)


def find_networks(directory: Path) -> tuple[Network, Network, PoseNetworks]:
    """The detector and the whole-body network in a directory. Raises InputMissing or CheckpointError."""
    shown = escaped(str(directory))
    if not os.path.isdir(directory):
        raise InputMissing(f"{shown}: expected a directory with ONNX files, found none")
    paths = sorted(
        path for path in (*directory.glob("*.onnx"), *directory.glob("*/*.onnx")) if path.is_file()
    )
    if not paths or len(paths) > MAX_FILES:
        raise InputMissing(
            f"{shown}: expected ONNX files of {EXPECTED}, found {len(paths) or 'no'} ONNX files"
        )
    networks = [read_network(path, directory) for path in paths]
    detectors = [network for network in networks if network.size and network.is_detector]
    others = [network for network in networks if network.size and network.kind]
    if len(detectors) != 1 or len(others) != 1:
        raise CheckpointError(
            f"{shown}: expected one file of each: {EXPECTED}; found {', '.join(map(str, networks[:4]))}"
            f"{f' and {len(networks) - 4} more' if len(networks) > 4 else ''}"
        )
    detector, landmarks = detectors[0], others[0]
    assert detector.size
    assert landmarks.size
    assert landmarks.kind
    if detector.size[0] != detector.size[1]:
        raise CheckpointError(f"{detector}: expected a detector with a square input")
    height, width = landmarks.size
    try:
        sizes = PoseNetworks(detector_side=detector.size[0], width=width, height=height, kind=landmarks.kind)
    except ConfigError as error:
        raise CheckpointError(f"{shown}: {error}") from error
    return detector, landmarks, sizes


def read_network(path: Path, directory: Path) -> Network:
    """Read an ONNX file, not its external weights. Raises CheckpointError."""
    shown = escaped(str(path))
    if (size := path.stat().st_size) > MAX_NETWORK:
        raise CheckpointError(
            f"{shown}: expected at most {MAX_NETWORK >> 20} MiB, found {(size - 1 >> 20) + 1}; export it "
            "with its weights in a file beside it"
        )
    try:
        names = weight_files(read_bytes(path, size))
        check_weights(path, sorted(map(os.fsdecode, names)), directory)
        return Network(path, ir.load(path))
    except CheckpointError:
        raise
    except Exception as error:  # of many classes, for a file that is no ONNX file
        raise CheckpointError(
            f"{shown}: expected an ONNX file, cannot read it: {one_line(message_of(error), MESSAGE)}"
        ) from error


def check_weights(path: Path, names: list[str], directory: Path) -> None:
    """Raise CheckpointError unless the files that an ONNX file takes weights from are in the directory."""
    inside = os.path.realpath(directory)
    for name in names:
        file = os.path.realpath(path.parent / name)
        if not file.startswith(f"{inside}{os.sep}"):
            raise CheckpointError(
                f"{escaped(str(path))}: expected all weights in the directory, found {quoted(name)}"
            )
        if not os.path.isfile(file):
            raise CheckpointError(f"{escaped(str(path))}: expected its weights in {quoted(name)}, found none")


def adapt(network: Network, contract: Contract) -> None:
    """Give a graph the names and shapes of the contract. Raises CheckpointError if it has other shapes."""
    graph = network.model.graph
    specs = (*contract.inputs, *contract.outputs)
    values = (*network.inputs, *graph.outputs)
    taken = {spec.name for spec in specs}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in taken and value not in values:
                value.name = f"{value.name}_inside"
    if len({id(value) for value in values}) != len(specs):
        raise CheckpointError(f"{network}: expected outputs that are computed, each once")
    for spec, value in zip(specs, values, strict=True):
        known = shape(value)
        if len(known) != len(spec.shape) or any(
            side not in (None, expected) for side, expected in zip(known, spec.shape, strict=True)
        ):
            raise CheckpointError(f"{network}: expected {spec.name} of {spec.shape}, found other shapes")
        if not is_float(value):
            raise CheckpointError(f"{network}: expected float32, found {value.dtype}; export it in float32")
        value.name, value.shape = spec.name, ir.Shape(spec.shape)


def write(network: Network, weights: WeightFile, path: Path) -> None:
    """Write a graph, and its weights to the bundle's file of weights. Raises CheckpointError, BuildError."""
    try:
        strip_metadata(network.model)
        weights.take_from(network.model)
        for value in network.model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and value.const_value.location != WEIGHTS:
                value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)  # a small one
        ir.save(network.model, path)
    except OSError:
        raise
    except Exception as error:  # of many classes: weights that are missing or too short
        raise CheckpointError(f"{network}: cannot read it: {one_line(message_of(error), MESSAGE)}") from error
    if path.stat().st_size > MAX_GRAPH:
        raise BuildError(f"{network}: expected a graph of at most {MAX_GRAPH:,} bytes without its weights")


def check(folder: Path, progress: Callable[[str], None]) -> None:
    """Open the bundle, and load its engines where a plan does not show that they can be compiled.

    Raises BundleError or DeviceError if it cannot be used.
    """
    bundle = open_pose_bundle(folder)
    if bundle.manifest.backend == "openvino":
        device = open_device("openvino")
        try:
            for graph in bundle.manifest.graphs:
                progress(f"compile {graph}")
                load_engine(bundle, graph, device)
        finally:
            device.close()


def shape(value: ir.Value) -> Shape:
    """Sides of a value's shape, None for those that the file does not fix."""
    if value.shape is None:
        return ()
    return tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape)


def is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
