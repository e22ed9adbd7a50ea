"""One engine, timed in trtexec's terms and compared with the machine's peak rates.

Operations and bytes are the minimum that the graph needs: its multiply-adds, and every weight, input and
output moved once. The peak rates (ceilings) are measured before and after, in the same process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..engines.backends import load_engine, open_device
from ..engines.bundle import Bundle, open_bundle
from ..engines.contract import Contract
from ..engines.device import Array
from ..errors import ConfigError
from .baselines.onnx_engine import open_session
from .instruments import host
from .instruments.ceilings import CeilingProbes, Ceilings
from .instruments.multiply_adds import multiply_adds
from .instruments.single_graph import example
from .instruments.timed_engine import PARTS, TimedEngine
from .reporting.result import JSON, Result, Samples, describe_engines
from .reporting.samples import steady, summary

MAX_WARM_UP = 20
MIN_SECONDS, MAX_ITERATIONS = 3.0, 1000  # measure for at least this long, unless this many runs are done
UNSTEADY = 0.05  # coefficient of variation
ENQUEUE_BOUND = 0.8  # fraction of compute time; above it the host may be the bottleneck


def bench_engine(
    bundle: Path, graph: str, iterations: int, progress: Callable[[str], None] = lambda _what: None
) -> Result:
    """Measure at least `iterations` runs, and more until 3 seconds have passed or 1000 runs are done. Raises
    ConfigError if the bundle has no such graph."""
    opened = open_bundle(bundle)
    if graph not in opened.manifest.graphs:
        graphs = ", ".join(opened.manifest.graphs)
        raise ConfigError(f"graph: expected one of {graphs}, found {graph}")
    warnings = host.busy_warnings()
    with closing(open_device(opened.manifest.backend, timing=True)) as device:
        device.activate()
        progress("load engine")
        began = perf_counter()
        engine = TimedEngine(load_engine(opened, graph, device), device)
        load_s = perf_counter() - began
        inputs = inputs_of(opened, engine.contract)
        engine.fill(inputs)
        progress("measure ceilings")
        probes = CeilingProbes(opened, device)
        before = probes.measure()
        progress(f"measure {graph}")
        samples = measure(engine, iterations)
        after = probes.measure()
        outputs = engine.outputs()
    progress("compare with ONNX Runtime")
    accuracy = compare_outputs(opened, graph, inputs, outputs)
    ceilings = Ceilings(*map(max, before, after))
    speed = roofline(opened, graph, engine.transferred_bytes, ceilings, samples["compute"])
    return Result(
        kind="engine",
        workload={"graph": graph, "bucket": asdict(opened.manifest.bucket)},
        engines=[entry for entry in describe_engines(opened) if entry["name"] == graph],
        results={
            "seconds": {part: summary(samples[part]) for part in PARTS},
            "load_s": load_s,
            **speed,
            "accuracy": accuracy,
        },
        samples=samples,
        warnings=[*warnings, *reliability_warnings(samples, before, after)],
    )


def inputs_of(bundle: Bundle, contract: Contract) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    window = bundle.manifest.bucket.window
    return {spec.name: example(spec, generator, window) for spec in contract.inputs}


def measure(engine: TimedEngine, iterations: int) -> Samples:
    """Seconds of each of PARTS, after a warm-up until the last few runs agree."""
    recent: list[float] = []
    while len(recent) < MAX_WARM_UP and not steady(recent):
        recent.append(engine.once()["latency"])
    samples: Samples = {part: [] for part in PARTS}
    began = perf_counter()
    most = max(iterations, MAX_ITERATIONS)
    while (done := len(samples["latency"])) < most:
        if done >= iterations and perf_counter() - began >= MIN_SECONDS:
            break
        for part, seconds in engine.once().items():
            samples[part].append(seconds)
    return samples


def roofline(
    bundle: Bundle, graph: str, transferred: int, ceilings: Ceilings, compute: list[float]
) -> dict[str, Any]:
    """Operations and bytes of a run, their rates, and the least time a run can take at the ceilings
    (`floor_s`), also as a fraction of the measured time."""
    flop = 2 * multiply_adds(bundle.graph(graph))
    item_bytes = 4 if bundle.manifest.precision == "fp32" else 2  # in memory, whatever the file has
    num_bytes = transferred + num_weights(bundle.graph(graph)) * item_bytes
    seconds = summary(compute)["median"]
    assert seconds is not None
    floor_s = max(flop / ceilings.flops, num_bytes / ceilings.bytes)
    return {
        "flop": flop,
        "bytes": num_bytes,
        "flops_per_s": flop / seconds,
        "bytes_per_s": num_bytes / seconds,
        "ceilings": ceilings.as_json(),
        "floor_s": floor_s,
        "share_of_floor": floor_s / seconds,
    }


def num_weights(path: Path) -> int:
    """The number of external weights of an ONNX file."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.external_data)


def compare_outputs(
    bundle: Bundle, graph: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> JSON:
    """The largest difference of any output from ONNX Runtime's, relative to that output's largest value."""
    session = open_session(bundle.graph(graph))
    oracle = dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))
    worst = 0.0
    for name, expected in oracle.items():
        difference = np.abs(outputs[name].astype(np.float64) - expected.astype(np.float64)).max()
        worst = max(worst, float(difference / (np.abs(expected.astype(np.float64)).max() or 1.0)))
    return {"oracle": "ONNX Runtime", "relative_error": worst}


def reliability_warnings(samples: Samples, before: Ceilings, after: Ceilings) -> list[str]:
    """Warnings about measurements that may be unreliable."""
    found = []
    times = {part: summary(samples[part]) for part in PARTS}
    compute, enqueue, variation = (
        times["compute"]["median"],
        times["enqueue"]["median"],
        times["latency"]["cv"],
    )
    assert compute is not None
    assert enqueue is not None
    if variation is not None and variation > UNSTEADY:
        found.append(f"latency is not steady: coefficient of variation {100 * variation:.0f} %")
    if enqueue > ENQUEUE_BOUND * compute:
        found.append("enqueue takes nearly as long as the computation: the host may be the bottleneck")
    drift = max(max(a, b) / min(a, b) for a, b in zip(before, after, strict=True))
    if drift > 1.1:
        found.append(f"the ceilings changed by a factor of {drift:.2f} during the run")
    return found
