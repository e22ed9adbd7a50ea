"""Whole clips, from pictures to an mp4, in three scenarios named as in MLPerf:

    single-stream  the next clip is requested when the previous one is finished
    offline        all clips are requested at once
    server         clips arrive at random times (Poisson) and have a deadline

Every clip has its own reference and poses, so the reference cache never helps.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from threading import Lock
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np

from ..engines import contract
from ..engines.backends import open_device
from ..engines.bundle import Bundle, open_bundle
from ..engines.device import Array, Device
from ..engines.engine import Engine
from ..engines.precision import Backend
from ..runtime.animator import Animator
from ..runtime.media.picture import Frame
from ..runtime.media.writer import FrameWriter, open_writer
from .baselines.onnx_engine import load_onnx_engine
from .instruments import host
from .instruments.accuracy import compare_frames
from .instruments.timeline import ENCODE, Log, Span, breakdown, residual_warning
from .reporting.result import JSON, Result, describe_engines
from .reporting.samples import summary
from .workload import Pictures, Workload

CONCURRENT_CLIPS = 2  # offline and server: one clip decodes while the other denoises
LOAD = 0.7  # default arrival rate, in clips per latency of one clip
PATIENCE = 3.0  # default deadline, in latencies of one clip

Progress = Callable[[str], None]


class Oracle(NamedTuple):
    """Other engines for the bundle's graphs, which render the frames to compare with. `backend` selects the
    device; None is the bundle's backend."""

    name: str
    engines: Callable[[], Callable[[Bundle, str, Device], Engine]]  # called after measuring
    backend: Backend | None


class ClipTimes(NamedTuple):
    """Times of a clip's events; seconds on the host's clock."""

    arrived: float
    began: float
    first_frame: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How clips are requested. The server scenario has a rate (clips per second) and a deadline (seconds);
    None derives them from the warm-up clip's latency."""

    scenario: str
    clips: int
    rate: float | None = None
    deadline_s: float | None = None


def bench_clip(
    bundle: Path, workload: Workload, demand: Demand, oracle: Oracle, progress: Progress
) -> Result:
    """Measure clips, and compare clip 1's frames with those that `oracle` renders."""
    warnings = host.busy_warnings()
    host.reset_peak()
    began = perf_counter()
    opened = open_bundle(bundle)
    device, log = open_device(opened.manifest.backend, timing=True), Log()
    free = device.free_bytes()
    with tempfile.TemporaryDirectory(prefix="animate-rt-bench-") as folder:
        with Animator(opened, device=device, observe=log) as animator:
            for graph in set(workload.options.resolve(opened.manifest).unet_graphs):
                animator.session.engine(graph)
            load_s = perf_counter() - began
            pictures = [workload.pictures(clip) for clip in range(demand.clips + 1)]
            renderer = ClipRenderer(animator, workload, pictures, Path(folder))
            progress("warm up")
            warm_up = renderer.render(0, perf_counter())
            log.take(0.0)
            offset = clock_offset(device)
            renderer.encoding.clear()
            rate = demand.rate or LOAD / (warm_up.ended - warm_up.began)
            deadline_s = demand.deadline_s or PATIENCE * (warm_up.ended - warm_up.began)
            progress(demand.scenario)
            made = SCENARIOS[demand.scenario](renderer, demand.clips, rate, progress)
            spans = log.take(offset) + renderer.encoding
            memory = memory_of(opened, device, free)
        progress("accuracy")
        accuracy = compare_with_oracle(opened, workload, renderer.frames, oracle)
    stages, warning = whole_breakdown(demand.scenario, made, spans)
    samples = {
        "latency": [clip.ended - clip.arrived for clip in made],
        "first_frame": [clip.first_frame - clip.arrived for clip in made],
        "unet": [span.seconds for span in spans if span.name.startswith(contract.DENOISING_UNET)],
    }
    return Result(
        kind="clip",
        workload={**asdict(demand), **workload.as_json()},
        engines=describe_engines(opened),
        results={
            "latency_s": summary(samples["latency"]),
            "first_frame_s": summary(samples["first_frame"]),
            "unet_s": summary(samples["unet"]),
            **throughput(made, workload),
            "server": deadline_figures(made, rate, deadline_s) if demand.scenario == "server" else None,
            "stages": stages,
            "load_s": load_s,
            "memory": memory,
            "accuracy": accuracy,
        },
        samples=samples,
        warnings=[*warnings, *warning],
    )


@dataclass(slots=True)
class ClipRenderer:
    """Renders and encodes clips, records their times, and keeps the frames of clip 1."""

    animator: Animator
    workload: Workload
    pictures: list[Pictures]  # by clip
    folder: Path
    encoding: list[Span] = field(default_factory=list)
    frames: list[Array] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def render(self, clip: int, arrived: float) -> ClipTimes:
        began, first = perf_counter(), 0.0
        with self.writer(clip) as writer:
            for frame in self.workload.animate(self.animator, clip, self.pictures[clip]):
                first = first or perf_counter()
                writer.write(frame)
                if clip == 1:
                    self.frames.append(frame)
        return ClipTimes(arrived, began, first, perf_counter())

    def writer(self, clip: int) -> FrameWriter:
        """The runtime's writer, wrapped in another that gives it one frame at a time and records how long
        each takes to encode."""
        path, work = self.folder / f"{clip}.mp4", self.workload
        size = work.bucket

        def encode(frames: Iterator[Frame]) -> None:
            with open_writer(path, size.width, size.height, Fraction(work.fps)) as writer:
                for frame in frames:
                    since = perf_counter()
                    writer.write(frame)
                    writer.flush()  # otherwise only the copy into its queue would be timed
                    self.note(since)
                since = perf_counter()
            self.note(since)  # frames that the encoder held back until it was closed

        return FrameWriter(path, (size.height, size.width, 3), encode)

    def note(self, since: float) -> None:
        with self.lock:
            self.encoding.append(Span("encode", ENCODE, since, perf_counter()))


def single_stream(renderer: ClipRenderer, clips: int, _rate: float, progress: Progress) -> list[ClipTimes]:
    made = []
    for clip in range(1, clips + 1):
        progress(f"single-stream: clip {clip}/{clips}")
        made.append(renderer.render(clip, perf_counter()))
    return made


def offline(renderer: ClipRenderer, clips: int, _rate: float, _progress: Progress) -> list[ClipTimes]:
    now = perf_counter()
    with ThreadPoolExecutor(CONCURRENT_CLIPS) as pool:
        return list(pool.map(lambda clip: renderer.render(clip, now), range(1, clips + 1)))


def server(renderer: ClipRenderer, clips: int, rate: float, progress: Progress) -> list[ClipTimes]:
    gaps = np.random.default_rng(renderer.workload.options.seed).exponential(1 / rate, clips)
    arrivals = perf_counter() + np.cumsum(gaps)
    with ThreadPoolExecutor(CONCURRENT_CLIPS) as pool:
        pending = []
        for clip, arrival in enumerate(arrivals, 1):
            sleep(max(0.0, arrival - perf_counter()))
            progress(f"server: clip {clip}/{clips} has arrived")
            pending.append(pool.submit(renderer.render, clip, float(arrival)))
        return [clip.result() for clip in pending]


SCENARIOS: dict[str, Callable[[ClipRenderer, int, float, Progress], list[ClipTimes]]] = {
    "single-stream": single_stream,
    "offline": offline,
    "server": server,
}


def throughput(made: list[ClipTimes], workload: Workload) -> JSON:
    """Rates over all clips; a real-time factor above 1 is slower than playback."""
    seconds = max(clip.ended for clip in made) - min(clip.arrived for clip in made)
    return {
        "frames_per_s": len(made) * workload.frames / seconds,
        "clips_per_s": len(made) / seconds,
        "real_time_factor": seconds / (len(made) * workload.duration_s),
    }


def deadline_figures(made: list[ClipTimes], rate: float, deadline_s: float) -> JSON:
    in_time = sum(clip.ended - clip.arrived <= deadline_s for clip in made)
    seconds = max(clip.ended for clip in made) - min(clip.arrived for clip in made)
    return {
        "rate": rate,
        "deadline_s": deadline_s,
        "in_time": in_time / len(made),
        "goodput": in_time / seconds,
    }


def whole_breakdown(scenario: str, made: list[ClipTimes], spans: list[Span]) -> tuple[JSON, list[str]]:
    """Seconds per clip by stage, and warnings. Single-stream clips are broken down one by one, those of other
    scenarios as one interval. A server's residual includes idle time, so it gives no warning."""
    if scenario == "single-stream":
        intervals = [(clip.began, clip.ended) for clip in made]
    else:
        intervals = [(min(clip.began for clip in made), max(clip.ended for clip in made))]
    parts = [
        breakdown([span for span in spans if began <= span.began and span.ended <= ended], began, ended)
        for began, ended in intervals
    ]
    total = mean_of(parts, len(made))
    warning = None if scenario == "server" else residual_warning(total)
    return total, [warning] if warning else []


def mean_of(parts: list[JSON], count: int) -> JSON:
    """Each value summed over `parts`, nested dictionaries included, divided by `count`."""
    first = parts[0]
    return {
        name: mean_of([part[name] for part in parts], count)
        if isinstance(value, dict)
        else sum(part[name] for part in parts) / count
        for name, value in first.items()
    }


def memory_of(bundle: Bundle, device: Device, free: int) -> JSON:
    """Bytes; `device` is None on a CPU, whose device memory is the host's."""
    on_gpu = bundle.manifest.backend == "tensorrt"
    return {"host_peak": host.peak_bytes(), "device": free - device.free_bytes() if on_gpu else None}


def clock_offset(device: Device) -> float:
    """The host's clock when the device's clock shows 0."""
    stream = device.stream("clock")
    offsets = []
    for _ in range(5):
        before, mark = perf_counter(), stream.record()
        mark.synchronize()  # time_s needs a finished event
        offsets.append((before + perf_counter()) / 2 - mark.time_s)
    return statistics.median(offsets)


def onnx_runtime() -> Oracle:
    return Oracle("ONNX Runtime", lambda: load_onnx_engine, "openvino")


def pytorch(checkpoint: Path, inference_config: Path | None) -> Oracle:
    def engines() -> Callable[[Bundle, str, Device], Engine]:
        from .baselines.torch_engine import torch_engines

        return torch_engines(checkpoint, inference_config)

    return Oracle("PyTorch", engines, None)


def compare_with_oracle(bundle: Bundle, workload: Workload, frames: list[Array], oracle: Oracle) -> JSON:
    """Accuracy of clip 1's frames against the oracle's."""
    device = open_device(oracle.backend or bundle.manifest.backend)
    with (
        Animator(bundle, device=device, load=oracle.engines()) as animator,
        closing(workload.animate(animator, 1, workload.pictures(1))) as expected,
    ):
        return {"oracle": oracle.name, **compare_frames(frames, expected)}
