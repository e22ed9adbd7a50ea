"""Calibration: clips made with a bundle, and the UNet's inputs in each call.

A quantized layer needs the range of its inputs, which is measured on these clips.

    folder with reference.* and pose, or a video of a person ─→ Animator ─→ every call's inputs, as .npy files
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from ..engines.bundle import Bundle, open_bundle
from ..engines.cpu.device import CPUStream
from ..engines.cpu.openvino import load_graph
from ..engines.device import Array, Buffer, Device, Stream
from ..engines.engine import Context, Engine
from ..engines.files import digest_of
from ..engines.manifest import MAX_TEXT, MAX_TEXTS
from ..engines.precision import QUANTIZED
from ..errors import ConfigError, InputError, InputMissing
from ..runtime.animator import Animator
from ..runtime.clip.memory_plan import check_room
from ..runtime.clip.progress import Progress
from ..runtime.media.folder import listed
from ..runtime.media.picture import Picture, check_picture
from ..runtime.media.pose_sequence import PoseSource, open_pose
from ..runtime.poses.driving import open_poses
from ..runtime.poses.extraction.extract import open_models
from ..runtime.shots.inputs import Inputs
from ..text import escaped, quoted

SHIPPED = Path(__file__).parents[1] / "weights" / "demo"  # the clip of the demo
STEPS = 10  # of each clip, unless its weights take fewer
Call = dict[str, str]  # file of each input, by name


@dataclass(frozen=True, slots=True)
class CalibrationClip:
    """The files of one clip. In a video of a person, that person in the first frame is the reference."""

    path: Path
    reference: Path
    pose: Path

    def check(self) -> None:
        """Raise InputMissing or InputError if it, or the models that find the person, cannot be opened."""
        open_pose(self.pose, 1)
        if self.is_video:
            open_models()
        else:
            check_picture(self.reference)

    @property
    def is_video(self) -> bool:
        return self.reference == self.pose

    @property
    def digest(self) -> str:
        """SHA-256 of the names and contents of its files. Raises InputError."""
        return digest_of(Inputs.read(self.reference, self.pose, None).content())


def find_clips(paths: Sequence[Path]) -> list[CalibrationClip]:
    """The clips at these paths, or the one of the demo if there are none.

    Each is opened, so that one that cannot be used is found before the bundle is built. Raises InputMissing,
    InputError or ConfigError.
    """
    if len(paths) > MAX_TEXTS:
        raise ConfigError(f"calibration: expected at most {MAX_TEXTS} clips, found {len(paths)}")
    clips = [find_clip(path) for path in paths or [SHIPPED]]
    names = [clip.path.name for clip in clips]
    for clip, name in zip(clips, names, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"calibration: expected clips with different names, found {quoted(name)} twice")
        if len(name) > MAX_TEXT or not name.isprintable():
            raise ConfigError(
                f"calibration: expected a name of up to {MAX_TEXT} printable characters, found {quoted(name)}"
            )
        clip.check()
    return clips


def find_clip(path: Path) -> CalibrationClip:
    path = path.absolute()
    if path.is_file():
        return CalibrationClip(path, path, path)
    try:
        entries = listed(path)
    except (OSError, ValueError) as error:  # ValueError for a null character
        reason = getattr(error, "strerror", error)
        raise InputMissing(f"{escaped(str(path))}: expected a calibration clip: {reason}") from error
    found = [[entry for entry in entries if entry.stem == stem] for stem in ("reference", "pose")]
    if [len(each) for each in found] != [1, 1]:
        names = ", ".join(quoted(entry.name) for entry in entries[:5]) or "no files"
        raise InputError(
            f"{escaped(str(path))}: expected one picture named reference, such as reference.png, and pose "
            f"frames named pose, a folder or a video, found {names}"
        )
    return CalibrationClip(path, *(each[0] for each in found))


def record_calls(
    bundle: Path, clips: Sequence[CalibrationClip], folder: Path, progress: Callable[[str], None]
) -> list[Call]:
    """Make the first window of each clip, and write what the UNet is given in each call as files of a folder.

    The bundle is one for a CPU. `progress` is called with each task. Raises InputError, DeviceError or
    OutOfMemory; an exception from `progress` ends it.
    """
    recorder = Recorder(folder)
    opened = open_bundle(bundle)
    check_room(opened)
    window, sampling = opened.manifest.bucket.window, opened.manifest.model.sampling
    steps = None if sampling.timesteps else min(STEPS, sampling.steps)
    with Animator(opened, load=recorder.load) as animator:
        for number, clip in enumerate(clips, 1):
            reference: Picture = clip.reference
            pose: PoseSource = clip.pose
            if clip.is_video:
                (reference,) = islice(open_pose(clip.pose, 1), 1)
                style = opened.manifest.model.pose_style
                pose = open_poses(clip.pose, align="none", style=style, frames=window)
            report = partial(tell, progress, f"clip {number} of {len(clips)}")
            with closing(
                animator.animate(reference, pose, frames=window, steps=steps, progress=report)
            ) as frames:
                for _ in frames:
                    pass
    return recorder.calls


def tell(progress: Callable[[str], None], clip: str, done: Progress) -> None:
    if done.stage == "denoise":
        progress(f"{clip}, task {done.done} of {done.total}")


@dataclass
class Recorder:
    """Writes the inputs of each run of a UNet to files of a folder. Equal inputs are written once."""

    folder: Path
    calls: list[Call] = field(default_factory=list)

    def load(self, bundle: Bundle, graph: str, device: Device) -> Engine:
        """Load a graph. It is not kept in the cache of compiled graphs, as the bundle will soon change."""
        engine = load_graph(bundle, graph, cached=False)
        device.trim()
        return RecordedEngine(engine, self) if graph in QUANTIZED else engine

    def record(self, inputs: dict[str, Array]) -> None:
        self.calls.append({name: self.write(array) for name, array in inputs.items()})

    def write(self, array: Array) -> str:
        kind = f"{array.dtype} {array.shape} ".encode()
        name = f"{hashlib.sha256(kind + array.tobytes()).hexdigest()}.npy"
        if not (self.folder / name).exists():
            np.save(self.folder / name, array)
        return name


class RecordedEngine:
    """An engine whose inputs are written to files before each run."""

    def __init__(self, engine: Engine, recorder: Recorder):
        self.engine, self.recorder = engine, recorder
        self.contract, self.activation_bytes = engine.contract, engine.activation_bytes

    @property
    def runs(self) -> int:
        return self.engine.runs

    def context(self, workspace: Buffer | None) -> RecordedContext:
        return RecordedContext(self, self.engine.context(workspace))


class RecordedContext:
    def __init__(self, engine: RecordedEngine, context: Context):
        self.engine, self.context = engine, context
        self.bound: dict[str, Buffer] = {}

    def bind(self, name: str, buffer: Buffer) -> None:
        self.bound[name] = buffer
        self.context.bind(name, buffer)

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, CPUStream)
        inputs = {spec.name: self.bound[spec.name].array for spec in self.engine.contract.inputs}
        stream.call(partial(self.engine.recorder.record, inputs))
        self.context.enqueue(stream)
