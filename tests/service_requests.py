"""Requests to a service: small, long and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from animate_rt import Animator, ClipRequest, open_writer
from animate_rt.runtime.media.pose_sequence import open_pose

from .conftest import Case

MANY_STEPS = 400  # of a clip that does not end before it is cancelled


def request(case: Case, **keys: Any) -> ClipRequest:
    """A clip of the recorded case, in two steps."""
    return ClipRequest(**{"reference": case.reference, "pose": case.pose, "steps": 2} | keys)


def truth(bundle: Path, case: Case, path: Path, **keys: Any) -> bytes:
    """The mp4 that an animator and a writer make of the same request."""
    with Animator.load(bundle) as animator:
        frames = animator.animate(case.reference, case.pose, **{"steps": 2} | keys)
        rate = open_pose(case.pose, None).frame_rate or 24
        with open_writer(path, case.width, case.height, rate) as writer:
            for frame in frames:
                writer.write(frame)
    return path.read_bytes()
