"""Requests to a service: small, long and broken ones; and clips that are held while they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from animate_rt import Animator, ClipRequest, Job, Marks, Payload, Service, open_writer
from animate_rt.engines.bundle import Bundle
from animate_rt.runtime.media.pose_sequence import open_pose
from animate_rt.runtime.service.request import to_line
from animate_rt.runtime.service.schedule import Entry
from animate_rt.runtime.service.spool import SHOT
from animate_rt.runtime.service.workers import read_shot

from .conftest import Case

MANY_STEPS = 400  # of a clip that does not end before it is cancelled


def request(case: Case, **keys: Any) -> ClipRequest:
    """A clip of the recorded case, in two steps."""
    return ClipRequest(**{"reference": case.reference, "pose": case.pose, "steps": 2} | keys)


def short(case: Case, **keys: Any) -> ClipRequest:
    """A clip of one window."""
    return request(case, frames=case.window, **keys)


def truth(bundle: Path, case: Case, path: Path, **keys: Any) -> bytes:
    """The mp4 that an animator and a writer make of the same request, with the marks that a service adds."""
    options = {"reference": case.reference, "pose": case.pose, "steps": 2} | keys
    reference, poses = options.pop("reference"), open_pose(options.pop("pose"), options.pop("frames", None))
    with Animator.load(bundle) as animator:
        made = animator.animate(reference, poses, **options)
        marks = marks_of(animator.bundle, request(case, **keys), path.with_suffix(".request"))
        with open_writer(path, case.width, case.height, poses.frame_rate or 24, marks=marks) as writer:
            for frame in made:
                writer.write(frame)
    return path.read_bytes()


def marks_of(bundle: Bundle, one: ClipRequest, folder: Path) -> Marks:
    """The marks of a request's result. `folder` is made for copies of its inputs."""
    folder.mkdir()
    (folder / SHOT).write_bytes(to_line(one.write(folder, "job", bundle.path.absolute())))
    return Marks(Payload.of(read_shot(folder, bundle).digest(bundle)))


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
