"""Requests to a service: small, long and broken ones; and clips that are held while they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from animate_rt import Animator, ClipRequest, Job, Service, open_writer
from animate_rt.runtime.media.pose_sequence import open_pose
from animate_rt.runtime.service.schedule import Entry

from .conftest import Case

MANY_STEPS = 400  # of a clip that does not end before it is cancelled


def request(case: Case, **keys: Any) -> ClipRequest:
    """A clip of the recorded case, in two steps."""
    return ClipRequest(**{"reference": case.reference, "pose": case.pose, "steps": 2} | keys)


def short(case: Case, **keys: Any) -> ClipRequest:
    """A clip of one window."""
    return request(case, frames=case.window, **keys)


def truth(bundle: Path, case: Case, path: Path, *, frames: int | None = None, **keys: Any) -> bytes:
    """The mp4 that an animator and a writer make of the same request."""
    with Animator.load(bundle) as animator:
        poses = open_pose(case.pose, frames)
        made = animator.animate(case.reference, poses, **{"steps": 2} | keys)
        with open_writer(path, case.width, case.height, poses.frame_rate or 24) as writer:
            for frame in made:
                writer.write(frame)
    return path.read_bytes()


def is_wanted(job: Job) -> bool:
    return not job.cancelled.is_set()


@contextmanager
def held(service: Service, at: Callable[[Job], bool] = is_wanted) -> Iterator[Callable[[], None]]:
    """Let clips begin no run of the UNet while `at` is true of their job, up to the end of the block.

    The function that this yields ends it earlier. A clip that is to pause goes on.
    """
    released, ask = Event(), service.schedule.should_pause

    def should_pause(entry: Entry) -> bool:
        while at(entry.job) and not entry.pause.is_set() and not released.wait(0.005):
            pass
        return ask(entry)

    service.schedule.should_pause = should_pause  # type: ignore[method-assign]
    try:
        yield released.set
    finally:
        released.set()
        service.schedule.should_pause = ask  # type: ignore[method-assign]
