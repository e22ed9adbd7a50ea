"""Accuracy and speed of extraction: `python -m animate_rt.benchmarks.extraction`.

Accuracy is measured on people whose joints are known: rendered bodies (rendered_people.py), and the drawn
puppets of the small model (puppets/world). PCK@0.2 is the share of visible points that are found within a
fifth of the torso's length, which is from the neck to the middle of the hips. Speed is measured on a video of
1280x720 of a rendered person: from the file to poses, in seconds and in seconds of the processor, which other
programs change less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runtime.animator import Animator
from ..runtime.media.video import open_video
from ..runtime.media.writer import open_writer
from ..runtime.poses.driving import open_poses
from ..runtime.poses.extraction.extract import Report, extract, open_models
from ..runtime.poses.extraction.models import Models
from ..runtime.poses.keypoints import BODY, BODY_NAMES, LEFT_HIP, NECK, RIGHT_HIP
from .instruments import host
from .puppets.world.scene import Scene
from .rendered_people import RenderedPerson
from .sizes import SIZES, bundles_of

SIZE = 512  # pixels of the pictures' sides
NEAR = 0.2  # of the torso's length
Keypoints = NDArray[np.float64]


class Puppet:
    """A puppet of the held-out scenes, in the form of RenderedPerson."""

    def __init__(self, seed: int, size: int):
        self.scene, self.size = Scene("held-out", seed, size), size

    def frame(self, frame: int) -> NDArray[np.uint8]:
        return self.scene.frame(frame)

    def keypoints(self, frame: int) -> Keypoints:
        return self.scene.keypoints(frame) * (self.size, self.size, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="pose bundle, or folder of model sets (default: MediaPipe's)",
    )
    parser.add_argument("--people", type=int, default=24, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--clip",
        type=Path,
        metavar="DIR",
        help="measure only the share of extraction in a mid-size clip; its bundles are built in this folder",
    )
    given = parser.parse_args()
    if given.clip:
        print(json.dumps({"share": share_of_clip(given.models, given.clip), "host": host.describe()}))
        return
    models = open_models(given.models)
    result: dict[str, Any] = {"people": given.people, "frames": given.frames, "size": SIZE}
    for name, kind in (("rendered", RenderedPerson), ("puppets", Puppet)):
        result[name] = accuracy(models, [kind(seed, SIZE) for seed in range(given.people)], given.frames)
        print(table(name, result[name]), file=sys.stderr)
    result["speed_720p"] = speed(models, 200)
    result["host"] = host.describe()
    models.close()
    print(json.dumps(result))


def accuracy(models: Models, people: list[Any], frames: int) -> dict[str, Any]:
    """PCK and mean error of each point of the body over all people and frames."""
    report, truth, found = Report(), [], []
    for person in people:
        own = Report()
        pictures = (person.frame(frame) for frame in range(frames))
        found += list(extract(pictures, models, report=own))
        truth += [person.keypoints(frame) for frame in range(frames)]
        report.frames += own.frames
        report.detections += own.detections
        report.missing += own.missing
        report.interpolated += own.interpolated
    true, poses = np.array(truth), np.array(found)[:, BODY]
    hips = (true[:, RIGHT_HIP, :2] + true[:, LEFT_HIP, :2]) / 2
    torso = np.hypot(*(true[:, NECK, :2] - hips).T)[:, None]
    visible = true[:, :, 2] > 0
    given = visible & (poses[:, :, 2] > 0)
    errors = np.hypot(*np.moveaxis(poses[:, :, :2] - true[:, :, :2], 2, 0))
    near = given & (errors <= NEAR * torso)
    return {
        "frames": report.frames,
        "frames_without_a_person": len(report.missing),
        "frames_interpolated": len(report.interpolated),
        "detections": report.detections,
        "pck": float(near.sum() / visible.sum()),
        "pck_by_point": by_point(near.sum(axis=0) / visible.sum(axis=0)),
        "mean_error_pixels": float(errors[given].mean()),
        "mean_error_pixels_by_point": by_point(np.where(given, errors, 0).sum(axis=0) / given.sum(axis=0)),
        "mean_error_torso": float((errors / torso)[given].mean()),
    }


def by_point(values: NDArray[Any]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(BODY_NAMES, values, strict=True)}


def table(name: str, result: dict[str, Any]) -> str:
    lines = [f"{name}: {result['frames']} frames, {result['frames_without_a_person']} without a person"]
    for point, share in result["pck_by_point"].items():
        lines.append(f"  {point:<15} {share:6.3f} {result['mean_error_pixels_by_point'][point]:7.1f} px")
    lines.append(f"  {'all':<15} {result['pck']:6.3f} {result['mean_error_pixels']:7.1f} px")
    return "\n".join(lines)


def speed(models: Models, frames: int) -> dict[str, Any]:
    """Frames per second from a video of 1280x720 to poses, and seconds of the processor per frame."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walk.mp4"
        with open_writer(path, 1280, 720, 25) as writer:
            for picture in wide_pictures(frames):
                writer.write(picture)
        video, report = open_video(os.fspath(path)), Report()
        list(extract(list(video.pictures(1))[:5], models))  # warms up
        cpu, began = processor_seconds(), perf_counter()
        for _picture in video.pictures(1):
            pass
        decoding = processor_seconds() - cpu, perf_counter() - began
        cpu, began = processor_seconds(), perf_counter()
        for _pose in extract(video.pictures(1), models, report=report):
            pass
        seconds, cpu = perf_counter() - began, processor_seconds() - cpu
    return {
        "frames": report.frames,
        "detections": report.detections,
        "frames_per_second": report.frames / seconds,
        "processor_seconds_per_frame": cpu / report.frames,
        "of_which_decoding": decoding[0] / report.frames,
        "cores": os.cpu_count(),
    }


def share_of_clip(models: Path | None, folder: Path) -> dict[str, Any]:
    """Seconds from a driving video of 1280x720 to poses, and from these to the frames of a mid-size clip."""
    bundle = bundles_of("mid", folder, lambda step: print(step, file=sys.stderr))[0]
    workload = SIZES["mid"].workload
    person = RenderedPerson(0, 720)
    with tempfile.TemporaryDirectory() as temporary, Animator.load(bundle) as animator:
        path = Path(temporary) / "walk.mp4"
        with open_writer(path, 1280, 720, 25) as writer:
            for picture in wide_pictures(workload.frames):
                writer.write(picture)
        measured = []
        for _ in range(3):  # the first clip warms up
            times = [(processor_seconds(), perf_counter())]
            poses = open_poses(path, reference=person.frame(0), models=models)
            times.append((processor_seconds(), perf_counter()))
            for _frame in animator.animate(person.frame(0), poses, workload.options):
                pass
            times.append((processor_seconds(), perf_counter()))
            measured.append(np.diff(times, axis=0))
    (pose_cpu, pose_s), (clip_cpu, clip_s) = np.median(measured[1:], axis=0)
    return {
        "frames": workload.frames,
        "steps": workload.options.steps,
        "extraction_s": pose_s,
        "clip_s": clip_s,
        "share_of_time": pose_s / (pose_s + clip_s),
        "share_of_processor_time": pose_cpu / (pose_cpu + clip_cpu),
    }


def wide_pictures(frames: int) -> Iterator[NDArray[np.uint8]]:
    person = RenderedPerson(0, 720)
    for frame in range(frames):
        wide = Image.new("RGB", (1280, 720), (120, 120, 120))
        wide.paste(Image.fromarray(person.frame(frame)), (280, 0))
        yield np.asarray(wide)


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
