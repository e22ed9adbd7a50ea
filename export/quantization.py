"""Quantizes the UNets of a bundle to 8 bits, with NNCF.

Convolutions and linear layers are quantized: their weights, and their inputs, whose ranges are those in clips
that were made with the same bundle (calibration.py). SmoothQuant first moves large values of single channels
from inputs into weights. Attention, which multiplies two tensors of the clip, and the first and the last
convolution stay in float; `engines/cpu/quantized_layers.py` tells them apart.

NNCF runs in a child process, so that its memory and its output end there.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from ..engines.build_process import Report, run_process, serve
from ..engines.bundle import seal
from ..engines.contract import Memory
from ..engines.cpu.openvino import import_openvino, new_core
from ..engines.cpu.quantized_layers import QuantizedLayers
from ..engines.manifest import WEIGHTS, Manifest
from ..engines.precision import QUANTIZED
from .calibration import CalibrationClip, Call, record_calls
from .saved_graphs import add_graph
from .weight_file import WeightFile

TELEMETRY = "openvino_telemetry"
SMOOTHING = 0.5  # SmoothQuant's alpha, for linear layers: half of the range goes into the weights


def quantize_graphs(
    folder: Path,
    manifest: Manifest,
    weights: WeightFile,
    clips: Sequence[CalibrationClip],
    progress: Callable[[str], None],
) -> dict[str, Memory]:
    """Quantize the UNets of the bundle in this folder, which has all its files but the manifest.

    Returns the memory that they take. `progress` is called repeatedly with the current step. Raises
    InputError if a clip cannot be used, BuildError if NNCF fails, DeviceError or OutOfMemory.
    """
    weights.file.flush()
    seal(folder, manifest)
    memory = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        recorded = Path(temporary)
        calls = record_calls(folder, clips, recorded, lambda what: progress(f"calibrate: {what}"))
        for graph in manifest.graphs:
            if graph not in QUANTIZED:
                continue
            progress(f"quantize {graph}")
            text, constants = recorded / "graph.xml", recorded / "graph.bin"
            job = {
                "graph": os.fspath(folder / manifest.engine(graph)),
                "weights": os.fspath(folder / WEIGHTS),
                "calls": with_guidance(calls, manifest, recorded),
                "folder": temporary,
                "text": os.fspath(text),
                "constants": os.fspath(constants),
            }
            run_process(__name__, job, f"{graph}: NNCF", partial(tell, progress, graph))
            memory[graph] = add_graph(text, constants, folder / manifest.engine(graph), weights, "int8")
    return memory


def tell(progress: Callable[[str], None], graph: str, done: str) -> None:
    progress(f"quantize {graph}: {done}" if done else f"quantize {graph}")


def with_guidance(calls: list[Call], manifest: Manifest, folder: Path) -> list[Call]:
    """The calls, with a guidance scale for those that were made without guidance."""
    np.save(folder / "scale.npy", np.array([manifest.model.sampling.guidance_scale], np.float32))
    return [{"guidance_scale": "scale.npy"} | call for call in calls]


def work(job: dict[str, Any], report: Report, _stopping: Event) -> None:
    """Quantize one graph, in the child process. The job names the files of the inputs of each call."""
    openvino, nncf = import_openvino(), import_nncf()
    model = new_core().read_model(job["graph"], job["weights"])
    names = [port.any_name for port in model.inputs]
    calls = Calls(job["calls"], names, Path(job["folder"]), report)
    left = QuantizedLayers.read(Path(job["graph"]), Path(job["weights"]).stat().st_size).left_in_float()
    parameters = importlib.import_module("nncf.quantization.advanced_parameters")
    quantized = nncf.quantize(
        model,
        nncf.Dataset(calls),
        subset_size=len(calls.calls),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=left),
        advanced_parameters=parameters.AdvancedQuantizationParameters(
            disable_bias_correction=True,
            smooth_quant_alphas=parameters.AdvancedSmoothQuantParameters(convolution=-1, matmul=SMOOTHING),
        ),
    )
    openvino.serialize(quantized, job["text"], job["constants"])


@dataclasses.dataclass
class Calls:
    """The inputs of all calls by name. NNCF reads them once for SmoothQuant and once for the ranges."""

    calls: list[Call]
    names: list[str]
    folder: Path
    report: Report
    passes: int = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.passes += 1
        for number, call in enumerate(self.calls, 1):
            self.report({"progress": f"pass {self.passes}, call {number} of {len(self.calls)}"})
            yield {name: np.load(self.folder / call[name]) for name in self.names}


def import_nncf() -> Any:
    """Import NNCF without the package that reports its use over the network."""
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    return importlib.import_module("nncf")


if __name__ == "__main__":
    serve(work)
