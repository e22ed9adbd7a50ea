"""The review of what a service makes: its policy is asked about references and frames.

Log lines name a picture by its digest only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AnimateError, Refused
from ..marks.policy import Policy, picture_digest
from ..media.picture import Frame, read_picture
from ..media.video import open_video
from ..shots.shot import Shot

LOG = logging.getLogger("animate_rt")
FRAMES = 16  # that a policy gets at once


class Review:
    """Asks a policy, if there is one. Nothing is made or given away if the policy fails."""

    def __init__(self, policy: Policy | None):
        self.policy = policy

    def reference(self, shot: Shot, request: Mapping[str, Any]) -> None:
        """Raise Refused unless the policy allows the reference, which is shown as the model gets it."""
        if self.policy is not None:
            picture = np.asarray(read_picture(shot.reference, shot.options.background))
            with logged("reference", picture):
                ask(self.policy.check_reference, picture, request)

    def frames(self, frames: Sequence[Frame]) -> None:
        """Raise Refused unless the policy allows these frames, at least one."""
        if self.policy is not None:
            with logged("frame", frames[0]):
                ask(self.policy.check_frames, frames)

    def result(self, path: Path) -> None:
        """Raise Refused unless the policy allows all frames of an mp4."""
        if self.policy is not None:
            frames = map(np.asarray, open_video(str(path)).pictures(1))
            while some := list(islice(frames, FRAMES)):
                self.frames(some)


def ask(check: Callable[..., object], *about: object) -> None:
    """Call a method of a policy. Raises TypeError unless it returns None.

    One that returns False means to refuse, and a coroutine function has not looked at anything yet.
    """
    answer = check(*about)
    if isinstance(answer, Coroutine):
        answer.close()
    if answer is not None:
        raise TypeError(f"expected None or Refused, found {type(answer).__name__}")


@contextmanager
def logged(what: str, picture: Frame) -> Iterator[None]:
    """Log what a policy refused, and turn its failure into an AnimateError."""
    try:
        yield
    except Refused:
        LOG.warning("policy: %s %s is refused", what, picture_digest(picture))
        raise
    except (Exception, SystemExit) as error:  # of any class: it is somebody's code
        name = type(error).__name__
        LOG.error("policy: expected an answer about %s %s, found %s", what, picture_digest(picture), name)
        raise AnimateError(
            f"policy: expected an answer, found {name}; nothing is made without one"
        ) from error
