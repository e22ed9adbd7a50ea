"""The gain from each exact rewrite and each runtime feature: the same work with and without it, interleaved.

A rewrite is timed by calls of its graph, from inputs on the device to the result on the host; a runtime
feature is timed by whole clips. Every variant must give the same result.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..engines.backends import load_engine, open_device
from ..engines.bundle import Bundle, open_bundle
from ..engines.contract import DENOISING_UNET, REFERENCE_NET, VAE_DECODER, Contract
from ..engines.cpu.openvino import BEFORE_DOUBLING, BY_CHANNEL, PASSES, OpenVINOEngine, compile_onnx
from ..engines.cuda.tensorrt import TensorRTContext
from ..engines.device import Array, Buffer, Device, Stream
from ..engines.engine import Context, Engine
from ..engines.precision import PRECISIONS
from ..errors import ConfigError
from ..runtime.animator import Animator
from .instruments import host
from .instruments.single_graph import example, single_engine
from .instruments.timed_engine import TimedEngine
from .reporting.result import JSON, WHOLE, Result, Samples, describe_engines
from .reporting.samples import ratio_of_medians, summary
from .workload import Workload

REFERENCE_ONCE = "the reference once, at batch 1"
PIXELS = "pixels as uint8 at the edges"
CACHE, STREAMS, REPLAY, SKEWED = "reference cache", "streams", "graph replay", "time-skewed order"
GUIDANCE = 3.5
STEPS = 3  # per clip: few, so that savings made once per clip are visible and rounds are short
LONG = 3  # windows in a long clip; orders differ only if there are several
DECODER_PASSES = BEFORE_DOUBLING, BY_CHANNEL  # not KEYS_FIRST: the decoder's only attention has many keys
CALLS = 3
Progress = Callable[[str], None]
Once = Callable[[], tuple[dict[str, float], Array]]  # runs once: seconds by measure, and the result


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A run with everything on, and runs with one rewrite or feature off."""

    whole: Once
    without: dict[str, Once]
    tolerance: float = 0.0  # largest allowed difference of results, relative to the largest value


def bench_ablate(
    checkpoint: Path,
    inference_config: Path | None,
    bundle: Path,
    workload: Workload,
    rounds: int,
    progress: Progress,
) -> Result:
    """Measure every rewrite and feature; `bundle` must be built from `checkpoint`."""
    opened, warnings = open_bundle(bundle), host.busy_warnings()
    if opened.manifest.precision == "int8":
        raise ConfigError(
            "ablate: expected a bundle in float, found one in int8; build it with another precision"
        )
    workload = workload.with_options(steps=min(STEPS, workload.num_steps))
    with ExitStack() as stack:
        calls = rewrites(checkpoint, inference_config, opened, stack, progress)
        rows, samples = take_turns(calls, CALLS * rounds, progress)
    with ExitStack() as stack:
        more_rows, more_samples = take_turns(features(opened, workload, stack, progress), rounds, progress)
    rows += more_rows
    return Result(
        kind="ablate",
        workload={**workload.as_json(), "precision": opened.manifest.precision},
        engines=describe_engines(opened),
        results={"rows": rows},
        samples=samples | more_samples,
        warnings=[
            *warnings,
            *(f"{row['name']}: results differ by {row['error']:.0e}" for row in rows if row["wrong"]),
        ],
    )


def take_turns(
    comparisons: Sequence[Comparison], turns: int, progress: Progress
) -> tuple[list[JSON], Samples]:
    """Run everything once, to warm up and to compare results, then `turns` times in a new random order."""
    samples: defaultdict[str, list[float]] = defaultdict(list)
    rows: list[JSON] = []
    progress("warm up")
    for comparison in comparisons:
        _, expected = comparison.whole()
        for name, once in comparison.without.items():
            seconds, found = once()
            error = float(np.abs(expected - found).max() / (np.abs(expected).max() or 1))
            wrong = error > comparison.tolerance
            rows += [{"name": name, "measure": m, "error": error, "wrong": wrong} for m in seconds]
    runs = [
        run for comparison in comparisons for run in ((WHOLE, comparison.whole), *comparison.without.items())
    ]
    for turn in range(turns):
        progress(f"turn {turn + 1}/{turns}")
        for index in np.random.default_rng(turn).permutation(len(runs)):
            name, once = runs[index]
            for measure, value in once()[0].items():
                samples[series(measure, name)].append(value)
    for row in rows:
        whole, without = (samples[series(row["measure"], name)] for name in (WHOLE, row["name"]))
        row |= {
            "with_s": summary(whole),
            "without_s": summary(without),
            "worth": ratio_of_medians(without, whole)._asdict(),
        }
    return rows, dict(samples)


def series(measure: str, off: str) -> str:
    return f"{measure}: {off if off == WHOLE else f'without {off}'}"


def rewrites(
    checkpoint: Path, inference_config: Path | None, bundle: Bundle, stack: ExitStack, progress: Progress
) -> list[Comparison]:
    """Comparisons of the graph rewrites; each variant is exported here and run by the bundle's backend."""
    import torch

    from ..export import load_checkpoint
    from .baselines import plain_unet as plain

    dtype = getattr(torch, PRECISIONS[bundle.manifest.precision].graph_dtype)
    loaded = load_checkpoint(checkpoint, inference_config, dtype)
    device = stack.enter_context(closing(open_device(bundle.manifest.backend, timing=True)))
    device.activate()
    contracts = bundle.manifest.graphs

    def variant(name: str, module: Any, contract: Contract) -> TimedEngine:
        progress(f"build: {name}")
        engine = single_engine(bundle, "variant", contract, partial(write, module, contract), device)
        return TimedEngine(engine, device)

    def product(graph: str) -> TimedEngine:
        return TimedEngine(load_engine(bundle, graph, device), device)

    def without_pass(graph: str, left_out: str) -> TimedEngine:
        """The bundle's graph on the CPU, compiled without one graph pass."""
        progress(f"build: {left_out}")
        passes = [name for name in PASSES if name != left_out]
        compiled = compile_onnx(bundle.graph(graph), bundle.manifest.precision, passes)
        return TimedEngine(OpenVINOEngine(compiled, contracts[graph]), device)

    context_dim = bundle.manifest.model.image_encoder.projection_dim
    inputs = consistent_inputs(loaded, contracts[DENOISING_UNET], bundle.manifest.bucket.window)
    unets: dict[str | None, TimedEngine] = {}
    for undone in (None, *plain.REWRITES):
        contract = plain.variant_contract(contracts[DENOISING_UNET], context_dim, undone)
        unets[undone] = variant(
            undone or "all rewrites", plain.PlainUNet(loaded.denoising_unet, undone), contract
        )
        unets[undone].fill(inputs)
    on_cpu = bundle.manifest.backend == "openvino"
    unet_passes = {name: without_pass(DENOISING_UNET, name) for name in (PASSES if on_cpu else ())}
    for engine in unet_passes.values():
        engine.fill({spec.name: inputs[spec.name] for spec in engine.contract.inputs})
    reference = (
        product(REFERENCE_NET),
        variant(REFERENCE_ONCE, plain.PlainReference(loaded), contracts[REFERENCE_NET]),
    )
    float_frame = contracts[VAE_DECODER].outputs[0]
    _, height, width, _ = float_frame.shape
    float_frame = dataclasses.replace(float_frame, dtype="float32", shape=(1, 3, height, width))
    decoder_contract = Contract(contracts[VAE_DECODER].inputs, (float_frame,))
    decoder = product(VAE_DECODER)
    decoders = {PIXELS: variant(PIXELS, plain.PlainDecoder(loaded.vae), decoder_contract)}
    decoders |= {name: without_pass(VAE_DECODER, name) for name in (DECODER_PASSES if on_cpu else ())}
    generator = np.random.default_rng(0)
    for alike in (reference, (decoder, *decoders.values())):
        same = {spec.name: example(spec, generator, 1) for spec in alike[0].contract.inputs}
        for engine in alike:
            engine.fill(same)
    finish = {plain.GUIDANCE_INSIDE: guided, PIXELS: to_pixels}
    tolerance = PRECISIONS[bundle.manifest.precision].rewrite_tolerance

    def comparison(measure: str, whole: TimedEngine, without: dict[str, TimedEngine]) -> Comparison:
        variants = {
            name: partial(call, measure, engine, finish.get(name, unchanged))
            for name, engine in without.items()
        }
        return Comparison(partial(call, measure, whole, unchanged), variants, tolerance)

    return [
        comparison("UNet call", unets[None], {name: unets[name] for name in plain.REWRITES} | unet_passes),
        comparison("reference call", reference[0], {REFERENCE_ONCE: reference[1]}),
        comparison("decoder call", decoder, decoders),
    ]


def write(module: Any, contract: Contract, path: Path) -> None:
    import onnx_ir as ir

    from ..export.onnx_graphs import export_graph
    from ..export.weight_file import WEIGHTS, WeightFile

    model = export_graph("variant", module.eval(), contract)
    with (path.parent / WEIGHTS).open("wb") as file:
        WeightFile(file).take_from(model)
    ir.save(model, path)


def consistent_inputs(checkpoint: Any, contract: Contract, window: int) -> dict[str, Array]:
    """Equivalent inputs for every variant: keys, values and time row are computed from the features and the
    timestep."""
    import torch

    generator = np.random.default_rng(0)
    inputs = {spec.name: example(spec, generator, window) for spec in contract.inputs}
    network, encoder = checkpoint.denoising_unet, checkpoint.config.image_encoder
    dtype = network.conv_in.weight.dtype
    keys = [spec for spec in contract.inputs if spec.name.startswith("key_")]
    shapes = [(1, spec.shape[2], spec.shape[1] * spec.shape[3]) for spec in keys]
    with torch.no_grad():
        features = [torch.from_numpy(generator.standard_normal(s, np.float32)).to(dtype) for s in shapes]
        embeds = torch.from_numpy(generator.standard_normal((1, encoder.projection_dim), np.float32)).to(
            dtype
        )
        timestep = torch.tensor([500.0])
        tensors = {"timestep": timestep, "image_embeds": embeds, "time_row": network.time_row(timestep)}
        for i, block in enumerate(network.project_reference(features, embeds)):
            for part, tensor in block._asdict().items():
                tensors[f"{part}_{i}"] = tensor
            tensors[f"feature_{i}"] = features[i]
    inputs["guidance_scale"] = np.array([GUIDANCE], np.float32)
    return inputs | {name: tensor.numpy() for name, tensor in tensors.items()}


def call(
    measure: str, engine: TimedEngine, finish: Callable[[Array], Array]
) -> tuple[dict[str, float], Array]:
    """Run once: the time to compute, copy to the host and finish there, and the finished result."""
    seconds = engine.once()
    first = engine.outputs()[engine.contract.outputs[0].name]
    began = perf_counter()
    result = finish(first)
    finishing = perf_counter() - began
    total = seconds["compute"] + seconds["device_to_host"] + finishing
    return {measure: total}, result.astype(np.float32)


def unchanged(result: Array) -> Array:
    return result


def guided(rows: Array) -> Array:
    unconditional, conditional = np.split(rows, 2)
    return unconditional + np.float32(GUIDANCE) * (conditional - unconditional)


def to_pixels(decoded: Array) -> Array:
    frames = (np.clip(decoded / 2 + 0.5, 0, 1) * 255).round()
    return np.ascontiguousarray(frames.transpose(0, 2, 3, 1).astype(np.uint8))


def features(bundle: Bundle, workload: Workload, stack: ExitStack, progress: Progress) -> list[Comparison]:
    """Comparisons of the runtime's features."""
    progress("load engines")

    def opened(wrap: Callable[[Device], Any] = lambda device: device, load: Any = load_engine) -> Animator:
        device = open_device(bundle.manifest.backend)
        return stack.enter_context(Animator(bundle, device=wrap(device), load=load))

    animator = opened()
    long = dataclasses.replace(workload, frames=LONG * workload.bucket.window)
    step_major, skewed = (
        long.with_options(windows="open", order=order) for order in ("step-major", "time-skewed")
    )
    without: dict[str, Once] = {
        CACHE: partial(clip, animator, workload, forget=True),
        STREAMS: partial(clip, opened(OneStream), workload),
    }
    if bundle.manifest.backend == "tensorrt":
        without[REPLAY] = partial(clip, opened(load=without_replay), workload)
    return [
        Comparison(partial(clip, animator, workload), without),
        Comparison(
            partial(clip, animator, skewed, "long clip"),
            {SKEWED: partial(clip, animator, step_major, "long clip")},
        ),
    ]


def clip(
    animator: Animator, workload: Workload, kind: str = "clip", *, forget: bool = False
) -> tuple[dict[str, float], Array]:
    """Seconds until the last and the first frame, and the frames. `forget` clears the reference cache first;
    otherwise the reference is in it once a clip has run."""
    if forget:
        animator.references.clear()
    pictures = workload.pictures(0)
    began = perf_counter()
    frames, seconds = [], []
    for frame in workload.animate(animator, 0, pictures):
        seconds.append(perf_counter() - began)
        frames.append(frame)
    times = {kind: seconds[-1], f"first frame of a {kind}": seconds[0]}
    return times, np.stack(frames).astype(np.float32)


class OneStream:
    """A device whose streams are all one stream, so that nothing runs concurrently."""

    def __init__(self, device: Device):
        self.device = device
        self.only = device.stream("only")

    def stream(self, _name: str) -> Stream:
        return self.only

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)


def without_replay(bundle: Bundle, graph: str, device: Device) -> Engine:
    return Unreplayed(load_engine(bundle, graph, device))


class Unreplayed:
    """A TensorRT engine whose contexts capture no CUDA graphs."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.contract, self.activation_bytes, self.runs = engine.contract, engine.activation_bytes, 0

    def context(self, workspace: Buffer | None) -> Context:
        context = self.engine.context(workspace)
        assert isinstance(context, TensorRTContext)
        context.graphs_enabled = False
        return context
