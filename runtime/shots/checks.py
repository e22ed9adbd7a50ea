"""Checks of a shot before its bundle is loaded, which is slow: everything that can be known by then."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...engines.bundle import Bundle
from ...errors import ConfigError, InputError, OutputError
from ...text import quoted
from ..clip.clip import frame_size, latent_shape
from ..clip.noise import noise_of, read_noise
from ..clip.windows import KnownLength
from ..media.animated_picture import is_still
from ..media.picture import MAX_NAME, read_picture
from ..media.pose_sequence import open_pose
from ..media.writer import check_rate, place
from .driven_poses import check_driven
from .frame_range import frame_range, must_exist
from .output import check_name
from .pose_files import by_track
from .shot import Shot


def check(shot: Shot, bundle: Bundle) -> None:
    """Raise ConfigError, InputError or OutputError for anything that would prevent making the shot.

    `bundle` need not be verified. Reads the reference, the noise and the headers of pictures of poses, and
    the frames of a pose video only if their number matters.
    """
    shot.check_conflicts()
    check_output(shot)
    settings = shot.options.resolve(bundle.manifest)
    frame_size(bundle.manifest, read_picture(shot.reference, settings.background))
    paths = by_track(shot.pose)
    for path in paths.values():
        if is_still(path) and not shot.output.picture:
            raise InputError(
                f"expected a video or a directory of pictures, found the single picture "
                f"{quoted(str(path), MAX_NAME)}: give its directory, or an output like out.png for one "
                "picture"
            )
    frames: Iterable[Any]
    if shot.driving is not None:
        frames = check_driven(shot.driver, shot.driving, shot.range())
        rate = shot.fps or shot.pose_fps
    else:
        frames = pose = shot.open_drawn(bundle.manifest)  # checks the headers of a directory's pictures
        rate = shot.frame_rate(pose)
    if rate and (shot.output.video or shot.overlay):
        check_rate(rate)
    if shot.output.picture:
        for _ in shot.output.only_one(frames):
            pass
    if shot.driving is not None:
        return
    num_frames = None
    if all(map(os.path.isdir, paths.values())):
        counts = {name: count_pictures(shot, path) for name, path in paths.items()}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} in {name}" for name, count in counts.items())
            raise InputError(f"guidance: expected tracks of one length, found {found} frames")
        num_frames = next(iter(counts.values()))
    elif shot.initial_noise or must_exist(shot.frames):
        num_frames = sum(1 for _ in pose)
    if shot.initial_noise and num_frames is not None:
        shape = latent_shape(bundle.manifest)
        noise_of(read_noise(shot.initial_noise, shape), settings.seed, shape, KnownLength(num_frames))


def count_pictures(shot: Shot, folder: Path) -> int:
    """Count the pictures that a shot uses of a pose directory. Raises InputError if some are missing."""
    start, stop = frame_range(shot.frames)
    found = open_pose(folder, stop, shot.pose_fps).num_frames or 0
    if must_exist(shot.frames):
        if stop is not None and found < stop:
            raise InputError(f"{folder}: expected pose frames {shot.frames}, found {found}")
        found -= start
    return found


def check_output(shot: Shot) -> None:
    """Raise ConfigError or OutputError if the shot's files cannot be written."""
    output, taken = shot.output, {shot.output.path, shot.output.sidecar}
    output.check_replaceable()
    for path in (output.path, *shot.previews.values()):
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {path}: {path.parent} is not writable; choose another folder")
    for name, path in shot.previews.items():
        what, target = name.replace("_", " "), place(os.fspath(path))
        check_name(target)
        if target.exists() and not target.is_file():
            raise OutputError(f"{path} exists and is not a file: choose another name for the {what}")
        if target in taken or output.path in target.parents:
            raise ConfigError(
                f"{what}: expected another file than the output, its sidecar and other previews, found {path}"
            )
        taken.add(target)
