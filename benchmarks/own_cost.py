"""The service's own cost: the same clip made in turns by an animator, by the service, and by a server.

    alone    `Animator.animate` and an mp4 writer
    library  `Service.submit` until the job has ended, in this process
    http     from the upload until the result is downloaded, from a server in another process

All read the same files and write the same bytes, without marks. Turns change places, because shared machines
change their speed. A difference is the median of those within a turn. Processor time counts what the service
adds to the clip even where it does not show: threads that work beside the device, and the process that checks
inputs.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from ..engines.bundle import Bundle
from ..runtime.animator import Animator
from ..runtime.media.picture import write_png
from ..runtime.media.writer import open_writer
from ..runtime.service.request import ClipRequest
from ..runtime.service.service import Service
from .instruments import host
from .instruments.video_client import Form, VideoClient
from .reporting.result import JSON, Samples
from .reporting.samples import ratio_of_medians, summary
from .workload import Workload

ALONE, LIBRARY, HTTP = WAYS = ("alone", "library", "http")
CANCELLED_STEPS = 1000  # of a clip that is cancelled long before its end
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Clips:
    """The clips of a workload as files, and as requests in both forms."""

    workload: Workload
    folder: Path

    def files(self, clip: int) -> tuple[Path, Path]:
        """The reference and the poses of a clip, written when they are first needed."""
        reference, poses = self.folder / f"{clip}.png", self.folder / f"{clip}-poses.mp4"
        if not reference.exists():
            pictures, bucket = self.workload.pictures(clip), self.workload.bucket
            with open_writer(poses, bucket.width, bucket.height, Fraction(self.workload.fps)) as writer:
                for picture in pictures.pose:
                    writer.write(picture)
            write_png(reference, pictures.reference)
        return reference, poses

    def options(self) -> dict[str, Any]:
        names = ("steps", "guidance_scale", "overlap", "seed", "windows")
        return {name: getattr(self.workload.options, name) for name in names}

    def request(self, clip: int, **options: Any) -> ClipRequest:
        reference, poses = self.files(clip)
        return ClipRequest(reference=reference, pose=poses, **self.options() | options)

    def form(self, clip: int) -> Form:
        reference, poses = self.files(clip)
        texts = {name: text_of(value) for name, value in self.options().items()}
        texts["num_inference_steps"] = texts.pop("steps")
        return Form(texts, {"input_reference": reference, "control_reference": poses})


def text_of(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class Turns:
    """Makes clips in all ways. `server` is the number of the server's process, if it is known."""

    def __init__(
        self, animator: Animator, service: Service, client: VideoClient, clips: Clips, server: int | None
    ):
        self.animator, self.service, self.client, self.clips = animator, service, client, clips
        self.server = server

    def alone(self, clip: int) -> bytes:
        (reference, poses), work = self.clips.files(clip), self.clips.workload
        path = self.clips.folder / "alone.mp4"
        with open_writer(path, work.bucket.width, work.bucket.height, Fraction(work.fps)) as writer:
            for frame in self.animator.animate(reference, poses, work.options):
                writer.write(frame)
        return path.read_bytes()

    def library(self, clip: int) -> bytes:
        return self.service.submit(self.clips.request(clip)).result().read_bytes()

    def http(self, clip: int) -> bytes:
        return self.client.watch(self.clips.form(clip), perf_counter(), stream=False).content

    @contextmanager
    def cpu(self, way: str, spent: defaultdict[str, float]) -> Iterator[None]:
        """Count the processor time of a way's processes."""
        began = self.cpu_seconds(way)
        yield
        spent[way] += self.cpu_seconds(way) - began

    def cpu_seconds(self, way: str) -> float:
        if way == HTTP:
            return host.cpu_seconds(self.server) if self.server else 0.0
        checker = self.service.checker.process
        return process_time() + (host.cpu_seconds(checker.pid) if way == LIBRARY and checker else 0.0)


def own_cost(turns: Turns, rounds: int, progress: Progress) -> tuple[JSON, Samples]:
    """Figures of all ways, and their samples. The first turn warms up."""
    seconds: Samples = {way: [] for way in WAYS}
    spent: defaultdict[str, float] = defaultdict(float)
    same = True
    for turn in range(rounds + 1):
        progress(f"in turns: {turn}/{rounds}")
        turns.clips.files(turn)  # written before the clock starts
        made = {}
        shift = turn % len(WAYS)
        for way in (*WAYS[shift:], *WAYS[:shift]):
            with turns.cpu(way, spent if turn else defaultdict(float)):
                began = perf_counter()
                made[way] = getattr(turns, way)(turn)
                if turn:
                    seconds[way].append(perf_counter() - began)
        same &= len(set(made.values())) == 1
    figures = {way: way_figures(way, seconds, spent, rounds) for way in WAYS}
    if turns.server is None:
        figures[HTTP]["cpu_s"] = None
    return {"ways": figures, "identical": same}, seconds


def way_figures(way: str, seconds: Samples, spent: defaultdict[str, float], rounds: int) -> JSON:
    """Figures of one way. `difference_s` is the median difference to `alone` within a turn."""
    differences = [mine - alone for mine, alone in zip(seconds[way], seconds[ALONE], strict=True)]
    return {
        "seconds": summary(seconds[way]),
        "cpu_s": spent[way] / rounds,
        "ratio": ratio_of_medians(seconds[way], seconds[ALONE])._asdict(),
        "difference_s": statistics.median(differences),
    }


def cancel_cost(service: Service, bundle: Bundle, clips: Clips, times: int, progress: Progress) -> JSON:
    """Seconds from cancelling a job until it has ended and all of it is given back, beside a UNet run's."""
    chance = np.random.default_rng(0)
    seconds = []
    (place,) = service.animators.places.values()
    schedule = bundle.manifest.model.sampling.schedule
    steps = CANCELLED_STEPS if isinstance(schedule, int) else None
    for number in range(times):
        progress(f"cancel: {number + 1}/{times}")
        job = service.submit(clips.request(0, steps=steps))
        for status in job.events():
            if status.stage == "denoise":
                break
        sleep(float(chance.uniform(2, 4)) * (place.speed.task_s or 0.0))
        began = perf_counter()
        job.cancel()
        job.wait()
        seconds.append(perf_counter() - began)
        service.remove(job)
    return {"seconds": summary(seconds), "unet_s": place.speed.task_s, "samples": seconds}
