"""A shot: one clip from input files to an output file, as the task of a farm.

Only files decide whether a shot is done: a sidecar beside the result holds the digest of bundle, inputs and
options (output.py). An unfinished shot resumes from its partial clip (resume.py). So a shot may be started
any number of times, by any process on any host, and is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...engines.bundle import Bundle, read_bundle
from ...engines.files import digest_of
from ...errors import AnimateError, ConfigError, InputChanged, InputError, OutputError
from ...text import quoted
from ..animator import Animator
from ..clip.clip import latent_shape
from ..clip.options import ClipOptions
from ..clip.progress import Progress
from ..clip.snapshot import Snapshot
from ..marks.marks import MarkOptions
from ..media.frame_range import FrameRange
from ..media.picture import read_picture
from ..media.pose_sequence import DEFAULT_FRAME_RATE, PoseSequence
from ..media.timecode import Time
from ..poses.driving import Driving
from ..poses.sources import driving_pictures
from .conflicts import ReadFiles
from .driven_poses import has_keypoints, models_digest, open_driven, sound_of
from .frame_range import frame_range, open_frames
from .inputs import Inputs
from .kept_files import NotOfThisClip, is_of_clip, read_png
from .loaded_bundle import check_unchanged
from .marking import lossy, marks_of
from .output import VIDEO, Output
from .previews import CONTACT_SHEET, OVERLAY, Finished, encode, write_contact_sheet, write_overlay
from .resume import PartialClip
from .versions import versions

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = 2  # of `Shot.request`
ATTEMPTS = 10  # at a shot whose partial clip other processes remove, or which turns out to be of no use


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The inputs, options and output of one clip."""

    name: str
    bundle: Path
    reference: Path
    pose: Path
    output: Output
    options: ClipOptions = field(default_factory=ClipOptions)
    frames: str | None = None  # "48": the first 48 pose frames; "25-72": those, counted from 1
    fps: Fraction | None = None  # default: the pose sequence's
    pose_fps: Fraction | None = None  # the rate to which poses are resampled first
    initial_noise: Path | None = None
    contact_sheet: Path | None = None
    overlay: Path | None = None  # an mp4 that shows driving video, poses and result side by side
    driving: Driving | None = None  # with it, `pose` is a video of a person or a keypoint file
    start: Time | None = None  # of a driving video, instead of frames
    duration: Time | None = None
    audio: bool = True  # carry the driving video's sound into an mp4
    marks: MarkOptions = field(default_factory=MarkOptions)

    def __post_init__(self) -> None:
        frame_range(self.frames)
        if self.driving is None and (self.start or self.duration):
            raise ConfigError("start, duration: expected a driving video, found drawn poses; use frames")
        if self.overlay and self.overlay.suffix.lower() != ".mp4":
            raise ConfigError(f"overlay: expected a name ending in .mp4, found {quoted(self.overlay.name)}")
        self.range()

    @property
    def previews(self) -> dict[str, Path]:
        """The paths of the contact sheet and the overlay, of those that are to be written."""
        paths = {CONTACT_SHEET: self.contact_sheet, OVERLAY: self.overlay}
        return {name: path for name, path in paths.items() if path}

    def range(self) -> FrameRange:
        """The frames of a driving video that the clip uses."""
        start, stop = frame_range(self.frames)
        return FrameRange(
            start=start, stop=stop, begin=self.start, duration=self.duration, frame_rate=self.pose_fps
        )

    def digest(self, loaded: Bundle | None = None, inputs: Inputs | None = None) -> str:
        """Digest of `request`. Raises InputError or BundleError."""
        return digest_of(self.request(loaded, inputs))

    def request(self, loaded: Bundle | None = None, inputs: Inputs | None = None) -> dict[str, Any]:
        """Everything that decides the bytes of the result.

        `loaded` is the bundle that makes the clip. Without it, the bundle is the one on disk, which may be
        another one when it is loaded: such a digest tells only whether the shot is done already.
        """
        bundle = loaded or read_bundle(self.bundle)
        return {
            "schema": SCHEMA,
            "versions": versions(bundle.manifest.backend, loaded=loaded is not None),
            "bundle": bundle.digest,
            **(inputs or self.read_inputs()).content(),
            "fps": self.fps and str(self.fps),
            "pose_fps": self.pose_fps and str(self.pose_fps),
            "pngs": None if self.output.video else [self.output.frame_name(0), self.output.bits],
            **({"picture": True} if self.output.picture else {}),
            "frames": str(self.frames),
            "marks": self.marks.request(),
            **{name: str(value) for name, value in asdict(self.options).items()},
            **self.driving_request(),
        }

    def driving_request(self) -> dict[str, Any]:
        """The part of `request` that belongs to a driving video."""
        if self.driving is None:
            return {}
        return {
            "driving": [str(self.driving.align), str(self.driving.person), self.driving.smooth],
            "models": models_digest(self.pose, self.driving),
            "times": [str(self.start), str(self.duration)],
            "audio": self.audio,
        }

    def read_inputs(self) -> Inputs:
        """Read and hash the input files. Raises InputError."""
        keypoints = self.driving.reference_keypoints if self.driving else None
        return Inputs.read(self.reference, self.pose, self.initial_noise, keypoints)

    def check_conflicts(self) -> None:
        """Raise OutputError if the shot would write, replace or remove something that it reads."""
        files = ReadFiles()
        self.add_inputs(files)
        files.add_contents(self.bundle, self.pose)
        files.check_output(self.output, self.previews.values())

    def add_inputs(self, files: ReadFiles) -> None:
        """Add the inputs to what is read, without the files in folders."""
        others = {"initial noise": self.initial_noise}
        if self.driving:
            others |= {
                "keypoints of the reference": self.driving.reference_keypoints,
                "models": self.driving.models,
            }
        files.add_shot(self.bundle, self.reference, self.pose, others)

    def open_drawn(self) -> PoseSequence:
        """Open the pose frames, which are drawn already. Raises InputError."""
        return open_frames(self.pose, self.frames, self.pose_fps, still=self.output.picture)

    def frame_rate(self, pose: PoseSequence) -> Fraction:
        """Frames per second of the result."""
        return self.fps or pose.frame_rate or DEFAULT_FRAME_RATE


class ShotResult(NamedTuple):
    """Number of frames of a finished shot."""

    num_kept: int  # finished by earlier processes
    num_frames: int  # in total


def is_done(shot: Shot, digest: str) -> bool:
    """Whether the complete result exists, and the contact sheet and the overlay if the shot has them."""
    return shot.output.holds(digest, shot.previews)


def clear_leftovers(shot: Shot, digest: str) -> None:
    """Remove the partial clips and temporary files that killed processes may have left beside a done shot."""
    shot.check_conflicts()
    PartialClip(shot.output, digest, shot.previews).clear()


def make(
    shot: Shot,
    animator: Animator,
    *,
    force: bool = False,
    progress: Callable[[Progress], None] = lambda _progress: None,
    pause: Callable[[], bool] = lambda: False,
) -> ShotResult:
    """Make a shot with its bundle's animator. Resumes an earlier attempt, or starts anew with `force`.

    Once `pause` returns True, Paused is raised after the next snapshot; another call resumes the shot.

    The result is recorded with the digest of the bundle that the animator has loaded, and of the inputs as
    they were when this began. If they have changed at the end, InputChanged is raised and nothing published.
    It is also raised if the bundle's files were written to since they were loaded: load them again.
    """
    shot.check_conflicts()
    check_unchanged(animator.bundle, thorough=True)
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        inputs = shot.read_inputs()
        digest = shot.digest(animator.bundle, inputs)
        if force:
            # First, because a process that resumes after a kill may run without `force`.
            PartialClip(shot.output, digest, shot.previews, inputs=inputs.state()).discard()
            force = False
        elif is_done(shot, digest):  # by another process, meanwhile
            break
        partial, poses = partial_clip(shot, animator, inputs, digest, progress, pause)
        try:
            with partial:
                return render(shot, animator, poses(), partial, inputs, progress)
        except InputError as error:
            changed = error if isinstance(error, InputChanged) else None
            with suppress(InputError):
                changed = changed or shot.read_inputs().changed_since(inputs)
            if changed:
                partial.clear()  # it may hold frames of either state
                raise changed from error
            raise
        except NotOfThisClip:
            partial.clear()
            if last or not partial.can_resume:
                raise
        except (AnimateError, OSError) as error:
            if is_done(shot, digest):  # by another process, which then removed the partial clip
                break
            if last or not partial.vanished or not isinstance(error, OutputError | OSError):
                raise
    clear_leftovers(shot, digest)
    return ShotResult(shot.output.num_frames, shot.output.num_frames)


def partial_clip(
    shot: Shot,
    animator: Animator,
    inputs: Inputs,
    digest: str,
    progress: Callable[[Progress], None],
    pause: Callable[[], bool],
) -> tuple[PartialClip, Callable[[], PoseSequence]]:
    """The partial clip of a shot, and a function that opens its poses once the clip's folder is there."""
    manifest = animator.bundle.manifest
    settings, bucket = shot.options.resolve(manifest), manifest.bucket

    @cache
    def poses() -> PoseSequence:
        if shot.driving is None:
            pose = shot.open_drawn()
        elif partial.can_resume and not has_keypoints(partial.path):
            raise NotOfThisClip("expected the keypoints from which the kept frames were made, found none")
        else:
            pose = open_driven(
                shot.pose,
                shot.reference,
                shot.driving,
                shot.range(),
                manifest.model.pose_style,
                partial.path,
                progress,
            )
        return replace(pose, read=lambda: shot.output.only_one(pose)) if shot.output.picture else pose

    def is_right(snapshot: Snapshot) -> bool:
        if shot.driving and not has_keypoints(partial.path):
            return False
        # The estimate is nearly always exact, and counting reads the whole sequence.
        pose, shape = poses(), latent_shape(manifest)
        estimate = pose.num_frames
        if estimate and is_of_clip(snapshot, settings, estimate, shape):
            return True
        return is_of_clip(snapshot, settings, sum(1 for _ in pose), shape)

    partial = PartialClip(
        shot.output,
        digest,
        shot.previews,
        inputs=inputs.state(),
        frame_shape=(bucket.height, bucket.width, 3),
        is_right=is_right,
        check=lambda: check_unchanged(animator.bundle),
        pause=pause,
    )
    return partial, poses


def render(
    shot: Shot,
    animator: Animator,
    pose: PoseSequence,
    partial: PartialClip,
    inputs: Inputs,
    progress: Callable[[Progress], None],
) -> ShotResult:
    """Make the frames that are missing in the partial clip, and publish the result."""
    bucket, num_poses = animator.bundle.manifest.bucket, 0

    def read() -> Iterator[Image.Image]:
        nonlocal num_poses
        for num_poses, picture in enumerate(pose, start=1):  # noqa: B007
            yield picture

    frames = animator.animate(
        shot.reference,
        replace(pose, read=read),
        shot.options,
        initial_noise=shot.initial_noise,
        progress=progress,
        snapshots=partial,
    )
    rate, sound = shot.frame_rate(pose), None
    marks = marks_of(shot.marks, animator.bundle, shot.options, shot.reference, shot.pose, partial.digest)
    marked = map(marks.marker(bucket.width, bucket.height), frames)  # kept frames are marked too
    with closing(partial.write(marked, (bucket.height, bucket.width, 3), marks.finish)) as new:
        if shot.output.video:
            all_frames = chain(partial.read(), new)
            if shot.driving and shot.audio:
                sound = sound_of(shot.pose, shot.range(), same_speed=rate == pose.frame_rate)
            path, finish = partial.path / VIDEO, marks.of_marked_frames()
            num_frames = encode(path, bucket.width, bucket.height, rate, all_frames, sound, finish)
        else:
            num_frames = partial.num_frames + sum(1 for _ in new)
    if num_frames != num_poses:
        raise NotOfThisClip(f"expected {num_poses} frames, one for each pose, made {num_frames}")
    clip = Finished(
        reference=lambda: read_picture(shot.reference, shot.options.background),
        driving=driving_pictures(shot.pose, shot.range()) if shot.driving else None,
        poses=pose,
        frame=lambda index: read_png(partial.frame(index)),
        num_frames=num_frames,
        width=bucket.width,
        height=bucket.height,
    )
    about = replace(marks.of_marked_frames(), watermark=None)  # their frames may be smaller than the clip's
    if shot.contact_sheet:
        write_contact_sheet(partial.preview(CONTACT_SHEET), clip, about)
    if shot.overlay:
        write_overlay(partial.preview(OVERLAY), clip, rate, sound, progress, about)
    with partial.locked():
        partial.recover()
        if not is_done(shot, partial.digest):
            if changed := shot.read_inputs().changed_since(inputs):
                raise changed
            check_unchanged(animator.bundle, thorough=True)
            shot.output.check_replaceable()
            partial.publish(num_frames, shot.name, shot.marks.record(), lossy(animator.bundle, shot.options))
        partial.clear()
    return ShotResult(partial.num_frames, num_frames)
