"""animate-rt: an inference runtime for Animate Anyone.

    from animate_rt import Animator

    with Animator.load("bundle") as animator:
        for frame in animator.animate("reference.png", "pose.mp4"):  # uint8 (H, W, 3)
            ...

`open_poses` draws the skeletons of a video of a person, or of keypoints, which `read_keypoints` and
`write_keypoints` keep in files. `Service` makes clips for many callers. `open_writer(marks=Marks(...))` marks
a file as generated, and `detect` tells whether one is.

To make a bundle, run `animate-rt build` or call `animate_rt.export.build_bundle`; both need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    AnimateError,
    BuildError,
    BundleCorrupt,
    BundleError,
    BundleMismatch,
    Cancelled,
    CheckpointError,
    ConfigError,
    DeadlineMissed,
    DeviceError,
    InputError,
    InputMissing,
    KeyReused,
    OutOfMemory,
    OutputError,
    QueueFull,
    Refused,
    Rejected,
    ServiceClosed,
)
from .runtime.animator import Animator
from .runtime.clip.frames import Frames
from .runtime.clip.options import ClipOptions
from .runtime.clip.progress import Progress
from .runtime.clip.snapshot import Snapshot, SnapshotSink
from .runtime.media.pose_sequence import PoseSequence
from .runtime.media.writer import FrameWriter, open_writer

if TYPE_CHECKING:
    from .runtime.marks.consent import ConsentList
    from .runtime.marks.detection import Detection, detect
    from .runtime.marks.marks import MarkOptions, Marks
    from .runtime.marks.policy import Policy
    from .runtime.marks.watermark import Payload
    from .runtime.poses.driving import open_poses
    from .runtime.poses.formats.reading import read_keypoints
    from .runtime.poses.formats.writing import write_keypoints
    from .runtime.poses.keypoints import Keypoints
    from .runtime.service import ClipRequest, Job, JobStatus, Service

__all__ = [
    "AnimateError",
    "Animator",
    "BuildError",
    "BundleCorrupt",
    "BundleError",
    "BundleMismatch",
    "Cancelled",
    "CheckpointError",
    "ClipOptions",
    "ClipRequest",
    "ConfigError",
    "ConsentList",
    "DeadlineMissed",
    "Detection",
    "DeviceError",
    "FrameWriter",
    "Frames",
    "InputError",
    "InputMissing",
    "Job",
    "JobStatus",
    "KeyReused",
    "Keypoints",
    "MarkOptions",
    "Marks",
    "OutOfMemory",
    "OutputError",
    "Payload",
    "Policy",
    "PoseSequence",
    "Progress",
    "QueueFull",
    "Refused",
    "Rejected",
    "Service",
    "ServiceClosed",
    "Snapshot",
    "SnapshotSink",
    "detect",
    "open_poses",
    "open_writer",
    "read_keypoints",
    "write_keypoints",
]


# Names that are imported when they are first used, as most programs need only the animator.
LATER = {
    **dict.fromkeys(("ClipRequest", "Job", "JobStatus", "Service"), "service"),
    "ConsentList": "marks.consent",
    **dict.fromkeys(("Detection", "detect"), "marks.detection"),
    **dict.fromkeys(("MarkOptions", "Marks"), "marks.marks"),
    "Payload": "marks.watermark",
    "Policy": "marks.policy",
    "open_poses": "poses.driving",
    "read_keypoints": "poses.formats.reading",
    "write_keypoints": "poses.formats.writing",
    "Keypoints": "poses.keypoints",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".runtime.{LATER[name]}", __name__), name)
