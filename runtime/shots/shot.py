"""A shot: one clip from input files to an output file, as the task of a farm.

Only files decide whether a shot is done: a sidecar beside the result holds the digest of bundle, inputs and
options (output.py). An unfinished shot resumes from its partial clip (resume.py). So a shot may be started
any number of times, by any process on any host, and is made once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.bundle import Bundle, read_bundle
from ...engines.files import digest_of
from ...engines.manifest import Manifest
from ...errors import ConfigError
from ...text import quoted
from ..clip.options import ClipOptions
from ..marks.marks import MarkOptions
from ..media.frame_range import FrameRange
from ..media.picture import read_picture
from ..media.pose_sequence import DEFAULT_FRAME_RATE, PoseSequence
from ..media.timecode import Time
from ..poses.driving import Driving
from .conflicts import ReadFiles
from .driven_poses import models_digest
from .frame_range import frame_range
from .inputs import Inputs
from .output import Output
from .pose_files import PoseFiles, open_drawn
from .previews import CONTACT_SHEET, OVERLAY
from .resume import PartialClip
from .versions import versions

if TYPE_CHECKING:
    pass

SCHEMA = 2  # of `Shot.request`


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The inputs, options and output of one clip."""

    name: str
    bundle: Path
    reference: Path
    pose: PoseFiles
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
            "models": models_digest(self.driver, self.driving),
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

    @property
    def driver(self) -> Path:
        """The driving video or keypoint file."""
        assert isinstance(self.pose, Path)
        return self.pose

    def open_drawn(self, manifest: Manifest) -> PoseSequence:
        """Open the pose frames, which are drawn already. Raises ConfigError or InputError."""
        return open_drawn(self.pose, manifest, self.frames, self.pose_fps, still=self.output.picture)

    def frame_size(self, manifest: Manifest) -> tuple[int, int]:
        """Width and height of the result. They are even in a video, which loses a row or a column."""
        if not manifest.model.reference_size:
            return manifest.bucket.width, manifest.bucket.height
        width, height = read_picture(self.reference, self.options.background).size
        return (width & ~1, height & ~1) if self.output.video else (width, height)

    def frame_rate(self, pose: PoseSequence) -> Fraction:
        """Frames per second of the result."""
        return self.fps or pose.frame_rate or DEFAULT_FRAME_RATE


def is_done(shot: Shot, digest: str) -> bool:
    """Whether the complete result exists, and the contact sheet and the overlay if the shot has them."""
    return shot.output.holds(digest, shot.previews)


def clear_leftovers(shot: Shot, digest: str) -> None:
    """Remove the partial clips and temporary files that killed processes may have left beside a done shot."""
    shot.check_conflicts()
    PartialClip(shot.output, digest, shot.previews).clear()
