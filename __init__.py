"""animate-rt: an inference runtime for Animate Anyone.

    from animate_rt import Animator

    with Animator.load("bundle") as animator:
        for frame in animator.animate("reference.png", "pose.mp4"):  # uint8 (H, W, 3)
            ...

To make a bundle, run `animate-rt build` or call `animate_rt.export.build_bundle`; both need torch.
"""

from .errors import (
    AnimateError,
    BuildError,
    BundleCorrupt,
    BundleError,
    BundleMismatch,
    Cancelled,
    CheckpointError,
    ConfigError,
    DeviceError,
    InputError,
    InputMissing,
    OutOfMemory,
    OutputError,
    Rejected,
)
from .runtime.animator import Animator
from .runtime.clip.frames import Frames
from .runtime.clip.options import ClipOptions
from .runtime.clip.progress import Progress
from .runtime.clip.snapshot import Snapshot, SnapshotSink
from .runtime.media.writer import FrameWriter, open_writer

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
    "ConfigError",
    "DeviceError",
    "FrameWriter",
    "Frames",
    "InputError",
    "InputMissing",
    "OutOfMemory",
    "OutputError",
    "Progress",
    "Rejected",
    "Snapshot",
    "SnapshotSink",
    "open_writer",
]
