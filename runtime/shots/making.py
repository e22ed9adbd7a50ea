"""Making a shot: a partial clip is resumed or begun, and published when it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from ...errors import AnimateError, InputChanged, InputError, OutputError
from ..animator import Animator
from ..clip.clip import latent_shape
from ..clip.progress import Progress
from ..clip.snapshot import Snapshot
from ..media.picture import read_picture
from ..media.pose_sequence import PoseSequence
from ..poses.sources import driving_pictures
from .driven_poses import has_keypoints, open_driven, sound_of
from .inputs import Inputs
from .kept_files import NotOfThisClip, is_of_clip, read_png
from .loaded_bundle import check_unchanged
from .marking import lossy, marks_of
from .output import VIDEO
from .previews import CONTACT_SHEET, OVERLAY, Finished, encode, write_contact_sheet, write_overlay
from .resume import PartialClip
from .shot import Shot, clear_leftovers, is_done

if TYPE_CHECKING:
    from PIL import Image

ATTEMPTS = 10  # at a shot whose partial clip other processes remove, or which turns out to be of no use


class ShotResult(NamedTuple):
    """Number of frames of a finished shot."""

    num_kept: int  # finished by earlier processes
    num_frames: int  # in total


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
    settings, (width, height) = shot.options.resolve(manifest), shot.frame_size(manifest)

    @cache
    def poses() -> PoseSequence:
        if shot.driving is None:
            pose = shot.open_drawn(manifest)
        elif partial.can_resume and not has_keypoints(partial.path):
            raise NotOfThisClip("expected the keypoints from which the kept frames were made, found none")
        else:
            pose = open_driven(
                shot.driver,
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
        frame_shape=(height, width, 3),
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
    (width, height), num_poses = shot.frame_size(animator.bundle.manifest), 0

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
    cropped = (frame[:height, :width] for frame in frames)
    marked = map(marks.marker(width, height), cropped)  # kept frames are marked too
    with closing(partial.write(marked, (height, width, 3), marks.finish)) as new:
        if shot.output.video:
            all_frames = chain(partial.read(), new)
            if shot.driving and shot.audio:
                sound = sound_of(shot.driver, shot.range(), same_speed=rate == pose.frame_rate)
            path, finish = partial.path / VIDEO, marks.of_marked_frames()
            num_frames = encode(path, width, height, rate, all_frames, sound, finish)
        else:
            num_frames = partial.num_frames + sum(1 for _ in new)
    if num_frames != num_poses:
        raise NotOfThisClip(f"expected {num_poses} frames, one for each pose, made {num_frames}")
    clip = Finished(
        reference=lambda: read_picture(shot.reference, shot.options.background),
        driving=driving_pictures(shot.driver, shot.range()) if shot.driving else None,
        poses=pose,
        frame=lambda index: read_png(partial.frame(index)),
        num_frames=num_frames,
        width=width,
        height=height,
        num_tracks=max(1, len(animator.bundle.manifest.model.pose_tracks)),
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
