"""Whole clips, from pictures to an mp4, under three kinds of demand (MLPerf's names):

    single-stream  the next clip is asked for when the last one is finished
    offline        all clips are asked for at once
    server         clips arrive at random (Poisson) and are worth something until a deadline

Every clip has a reference and poses of its own, so that nothing is found in the reference cache.
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
from .instruments.timeline import ENCODE, Log, Span, breakdown, unexplained
from .reporting.result import JSON, Result, describe_engines
from .reporting.samples import summary
from .workload import Pictures, Workload

TOGETHER = 2  # clips at once where several wait: one decodes while the other denoises
LOAD = 0.7  # of what the bundle can do, for arrivals whose rate is not given
PATIENCE = 3.0  # times one clip's latency, for a deadline that is not given

Progress = Callable[[str], None]


class Oracle(NamedTuple):
    """Another way through the bundle's graphs; on the bundle's own device where no backend is named."""

    name: str
    engines: Callable[[], Callable[[Bundle, str, Device], Engine]]  # called when nothing is measured any more
    backend: Backend | None


class Made(NamedTuple):
    """When what happened to a clip; seconds on the host's clock."""

    arrived: float
    began: float
    first_frame: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How clips are asked for. Rate (clips per second) and deadline (seconds) are a server's; None is one
    that follows from the first clip's latency."""

    scenario: str
    clips: int
    rate: float | None = None
    deadline_s: float | None = None


def bench_clip(
    bundle: Path, workload: Workload, demand: Demand, oracle: Oracle, progress: Progress
) -> Result:
    """`oracle` makes clip 1 again, for its frames to be compared."""
    warnings = host.busy()
    host.reset_peak()
    began = perf_counter()
    opened = open_bundle(bundle)
    device, log = open_device(opened.manifest.backend, timing=True), Log()
    free = device.free_bytes()
    with tempfile.TemporaryDirectory(prefix="animate-rt-bench-") as folder:
        with Animator(opened, device=device, observe=log) as animator:
            graph = "" if workload.guidance_scale > 1 else "_conditional"
            animator.session.engine(f"{contract.DENOISING_UNET}{graph}")
            load_s = perf_counter() - began
            pictures = [workload.pictures(clip) for clip in range(demand.clips + 1)]
            maker = Maker(animator, workload, pictures, Path(folder))
            progress("warm up")
            warm_up = maker.make(0, perf_counter())
            log.take(0.0)
            offset = clock_offset(device)
            maker.encoding.clear()
            rate = demand.rate or LOAD / (warm_up.ended - warm_up.began)
            deadline_s = demand.deadline_s or PATIENCE * (warm_up.ended - warm_up.began)
            progress(demand.scenario)
            made = SERVE[demand.scenario](maker, demand.clips, rate, progress)
            spans = log.take(offset) + maker.encoding
            memory = memory_of(opened, device, free)
        progress("accuracy")
        accuracy = judge(opened, workload, maker.frames, oracle)
    stages, doubt = whole_breakdown(demand.scenario, made, spans)
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
            "server": served(made, rate, deadline_s) if demand.scenario == "server" else None,
            "stages": stages,
            "load_s": load_s,
            "memory": memory,
            "accuracy": accuracy,
        },
        samples=samples,
        warnings=[*warnings, *doubt],
    )


@dataclass(slots=True)
class Maker:
    """Makes clips and notes when; keeps the frames of clip 1."""

    animator: Animator
    workload: Workload
    pictures: list[Pictures]  # by clip
    folder: Path
    encoding: list[Span] = field(default_factory=list)
    frames: list[Array] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def make(self, clip: int, arrived: float) -> Made:
        began, first = perf_counter(), 0.0
        with self.writer(clip) as writer:
            for frame in self.workload.animate(self.animator, clip, self.pictures[clip]):
                first = first or perf_counter()
                writer.write(frame)
                if clip == 1:
                    self.frames.append(frame)
        return Made(arrived, began, first, perf_counter())

    def writer(self, clip: int) -> FrameWriter:
        """The runtime's own, behind one that hands it a frame at a time and notes how long that takes."""
        path, work = self.folder / f"{clip}.mp4", self.workload

        def encode(frames: Iterator[Frame]) -> None:
            with open_writer(path, work.width, work.height, Fraction(work.fps)) as writer:
                for frame in frames:
                    since = perf_counter()
                    writer.write(frame)
                    writer.flush()  # or the time would be that of a copy into its queue
                    self.note(since)
                since = perf_counter()
            self.note(since)  # what the encoder held back until the end

        return FrameWriter(path, (work.height, work.width, 3), encode)

    def note(self, since: float) -> None:
        with self.lock:
            self.encoding.append(Span("encode", ENCODE, since, perf_counter()))


def single_stream(maker: Maker, clips: int, _rate: float, progress: Progress) -> list[Made]:
    made = []
    for clip in range(1, clips + 1):
        progress(f"single-stream: clip {clip}/{clips}")
        made.append(maker.make(clip, perf_counter()))
    return made


def offline(maker: Maker, clips: int, _rate: float, _progress: Progress) -> list[Made]:
    now = perf_counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(lambda clip: maker.make(clip, now), range(1, clips + 1)))


def server(maker: Maker, clips: int, rate: float, progress: Progress) -> list[Made]:
    gaps = np.random.default_rng(maker.workload.seed).exponential(1 / rate, clips)
    arrivals = perf_counter() + np.cumsum(gaps)
    with ThreadPoolExecutor(TOGETHER) as pool:
        coming = []
        for clip, arrival in enumerate(arrivals, 1):
            sleep(max(0.0, arrival - perf_counter()))
            progress(f"server: clip {clip}/{clips} has arrived")
            coming.append(pool.submit(maker.make, clip, float(arrival)))
        return [clip.result() for clip in coming]


SERVE: dict[str, Callable[[Maker, int, float, Progress], list[Made]]] = {
    "single-stream": single_stream,
    "offline": offline,
    "server": server,
}


def throughput(made: list[Made], workload: Workload) -> JSON:
    """A real-time factor above 1 is slower than the video plays."""
    seconds = max(clip.ended for clip in made) - min(clip.arrived for clip in made)
    return {
        "frames_per_s": len(made) * workload.frames / seconds,
        "clips_per_s": len(made) / seconds,
        "real_time_factor": seconds / (len(made) * workload.duration_s),
    }


def served(made: list[Made], rate: float, deadline_s: float) -> JSON:
    in_time = sum(clip.ended - clip.arrived <= deadline_s for clip in made)
    seconds = max(clip.ended for clip in made) - min(clip.arrived for clip in made)
    return {
        "rate": rate,
        "deadline_s": deadline_s,
        "in_time": in_time / len(made),
        "goodput": in_time / seconds,
    }


def whole_breakdown(scenario: str, made: list[Made], spans: list[Span]) -> tuple[JSON, list[str]]:
    """Seconds per clip. Of clips one by one each is accounted for by itself; of others all of them together.
    A server's residual is also when there was nothing to do, and no reason to doubt."""
    if scenario == "single-stream":
        intervals = [(clip.began, clip.ended) for clip in made]
    else:
        intervals = [(min(clip.began for clip in made), max(clip.ended for clip in made))]
    parts = [
        breakdown([span for span in spans if began <= span.began and span.ended <= ended], began, ended)
        for began, ended in intervals
    ]
    total = mean_of(parts, len(made))
    doubt = None if scenario == "server" else unexplained(total)
    return total, [doubt] if doubt else []


def mean_of(parts: list[JSON], count: int) -> JSON:
    """Sums over `parts`, one level deep at most, over `count`."""
    first = parts[0]
    return {
        name: mean_of([part[name] for part in parts], count)
        if isinstance(value, dict)
        else sum(part[name] for part in parts) / count
        for name, value in first.items()
    }


def memory_of(bundle: Bundle, device: Device, free: int) -> JSON:
    """Bytes. A CPU's device memory is the host's."""
    on_gpu = bundle.manifest.backend == "tensorrt"
    return {"host_peak": host.peak_bytes(), "device": free - device.free_bytes() if on_gpu else None}


def clock_offset(device: Device) -> float:
    """What the host's clock shows when the device's shows 0."""
    stream = device.stream("clock")
    offsets = []
    for _ in range(5):
        before, mark = perf_counter(), stream.record()
        mark.synchronize()  # its time is asked for next
        offsets.append((before + perf_counter()) / 2 - mark.time_s)
    return statistics.median(offsets)


def onnx_runtime() -> Oracle:
    return Oracle("ONNX Runtime", lambda: load_onnx_engine, "openvino")


def pytorch(checkpoint: Path, inference_config: Path | None) -> Oracle:
    def engines() -> Callable[[Bundle, str, Device], Engine]:
        from .baselines.torch_engine import torch_engines

        return torch_engines(checkpoint, inference_config)

    return Oracle("PyTorch", engines, None)


def judge(bundle: Bundle, workload: Workload, frames: list[Array], oracle: Oracle) -> JSON:
    """Clip 1's frames against the oracle's."""
    device = open_device(oracle.backend or bundle.manifest.backend)
    with (
        Animator(bundle, device=device, load=oracle.engines()) as animator,
        closing(workload.animate(animator, 1, workload.pictures(1))) as expected,
    ):
        return {"oracle": oracle.name, **compare_frames(frames, expected)}
