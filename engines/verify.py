"""Verifies a bundle's engines: their outputs are compared with those of ONNX Runtime, through Polygraphy.

Inputs are like those of a clip and made from a fixed seed: noise for pictures and latents, ONNX Runtime's
outputs of the earlier graphs for everything else. So errors of one engine do not affect the verdict on
another.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import AnimateError, BundleError, ConfigError
from ..text import escaped, message_of, one_line
from .backends import load_engine, open_device
from .bundle import Bundle
from .contract import TensorSpec
from .device import Array, Device
from .engine import Engine
from .precision import PRECISIONS, QUANTIZED
from .runner import Runner

MESSAGE = 400  # characters of ONNX Runtime's message in ours
SEED = 0
TIMESTEP, GUIDANCE_SCALE, EXTRAPOLATION = 500.0, 3.5, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One output of one engine against ONNX Runtime's."""

    graph: str
    output: str
    max_abs: float
    largest: float  # largest magnitude of ONNX Runtime's output; 255 for pictures
    psnr_db: float
    # Limit of `relative`. Pictures may differ by one level more: a tiny difference can change a rounding.
    tolerance: float
    passed: bool

    @property
    def relative(self) -> float:
        return self.max_abs / self.largest if self.largest else self.max_abs


def verify(bundle: Bundle, progress: Callable[[str], None] = lambda _graph: None) -> list[Comparison]:
    """Compare every output of every engine, on the bundle's device.

    `progress` is called with the name of each graph before it is compared. Raises ConfigError if Polygraphy
    or ONNX Runtime is not installed, DeviceError if the engines cannot run, BundleError if ONNX Runtime
    cannot.
    """
    try:
        import onnxruntime  # noqa: F401
        import polygraphy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"expected the packages of animate-rt[verify], found no {error.name}; "
            "pip install 'animate-rt[verify]'"
        ) from error
    generator = np.random.default_rng(SEED)
    device = open_device(bundle.manifest.backend)
    known: dict[str, Array] = {
        "timestep": np.array([TIMESTEP], np.float32),
        "guidance_scale": np.array([GUIDANCE_SCALE], np.float32),
        "extrapolation": np.array([EXTRAPOLATION], np.float32),
        "num_frames": np.array([max(1, bundle.manifest.bucket.window - 1)], np.int32),  # one frame is padding
    }
    comparisons = []
    try:
        device.activate()
        for graph, contract in bundle.manifest.graphs.items():
            progress(graph)
            inputs = {spec.name: example(spec, known, generator) for spec in contract.inputs}
            try:
                outputs, compared = compare(bundle, graph, device, inputs)
            except AnimateError:
                raise
            except Exception as error:  # of many classes, from Polygraphy and ONNX Runtime
                raise BundleError(
                    f"{escaped(str(bundle.graph(graph)))}: expected a graph that ONNX Runtime can run, found "
                    f"{one_line(message_of(error), MESSAGE)}; build the bundle again"
                ) from error
            known |= outputs
            comparisons += compared
    finally:
        device.close()
    return comparisons


def check(bundle: Bundle, comparisons: list[Comparison]) -> None:
    """Raise BundleError unless all comparisons passed."""
    if failed := [f"{c.graph} {c.output}" for c in comparisons if not c.passed]:
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise BundleError(
            f"{escaped(str(bundle.path))}: expected outputs within the tolerance of ONNX Runtime's, found "
            f"larger differences in {', '.join(failed[:3])}{more}; build it again: "
            f"{bundle.manifest.rebuild_command}"
        )


def table(comparisons: list[Comparison]) -> str:
    rows = [("graph", "output", "max abs", "relative", "PSNR dB", "tolerance", "")]
    rows += [
        (
            c.graph,
            c.output,
            f"{c.max_abs:.2e}",
            f"{c.relative:.2e}",
            f"{c.psnr_db:.1f}",
            f"{c.tolerance:.0e}",
            "ok" if c.passed else "FAILED",
        )
        for c in comparisons
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def example(spec: TensorSpec, known: dict[str, Array], generator: np.random.Generator) -> Array:
    """An input like those of a clip. `known` holds the scalars and the outputs of earlier graphs."""
    if spec.name == "latents":
        return generator.standard_normal(spec.shape, np.float32)
    if spec.name == "deep_features_before":  # of another step
        return known["deep_features"][::-1].copy()
    if spec.dtype == "uint8":
        return generator.integers(0, 256, spec.shape, np.uint8)
    if spec.name == "pose_features":  # computed for one frame, repeated for the whole window
        return np.repeat(known[spec.name], spec.shape[0], axis=0)
    return known[spec.name]


def compare(
    bundle: Bundle, graph: str, device: Device, inputs: dict[str, Array]
) -> tuple[dict[str, Array], list[Comparison]]:
    """Return ONNX Runtime's outputs of one graph, and the comparison of each with the engine's."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, PsnrCompareFunc, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    precision = bundle.manifest.precision
    in_float = precision == "int8" and graph not in QUANTIZED
    tolerance = PRECISIONS["bf16" if in_float else precision].tolerance
    session = SessionFromOnnx(str(bundle.graph(graph)), providers=["CPUExecutionProvider"])
    runners = [
        OnnxrtRunner(session, "onnxruntime"),
        engine_runner(load_engine(bundle, graph, device), device),
    ]
    # Polygraphy logs to standard output, and its relative errors divide by zero.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(divide="ignore", invalid="ignore"):
        results = Comparator.run(runners, data_loader=[inputs])
        oracle: dict[str, Array] = dict(results[0][1][0])
        largest = {name: magnitude(array) for name, array in oracle.items()}
        allowed = {
            name: tolerance * largest[name] + (1 if array.dtype == np.uint8 else 0)
            for name, array in oracle.items()
        }
        differences, noise = Comparator.compare_accuracy(
            results,
            compare_func=[
                SimpleCompareFunc(check_error_stat="max", atol=allowed, rtol=0),
                PsnrCompareFunc(),
            ],
        )
    names = (runners[0].name, runners[1].name)
    found, psnr = differences[names][0], noise[names][0]
    return oracle, [
        Comparison(
            graph=graph,
            output=name,
            max_abs=found[name].max_absdiff,
            largest=largest[name],
            psnr_db=psnr[name].psnr,
            tolerance=tolerance,
            passed=bool(found[name]),
        )
        for name in oracle
    ]


def magnitude(array: Array) -> float:
    return 255.0 if array.dtype == np.uint8 else float(np.abs(array).max())


def engine_runner(engine: Engine, device: Device) -> Any:
    """Wrap an engine as a Polygraphy runner."""
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    runner = Runner(engine, device, "verify")

    class EngineRunner(BaseRunner):  # type: ignore[misc]
        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for spec in engine.contract.inputs:
                metadata.add(spec.name, np.dtype(spec.dtype), spec.shape)
            return metadata

        def infer_impl(self, feed_dict: dict[str, Array]) -> OrderedDict[str, Array]:
            began = time.perf_counter()
            outputs = runner(feed_dict)
            self.inference_time = time.perf_counter() - began
            return OrderedDict(outputs)

    return EngineRunner("engine")
