"""A worker of a farm: a process with a bundle loaded and its references at hand, making shot after shot."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import AnimateError
from .animator import Animator, Progress
from .shot import Shot, is_done, make
from .status import Course


class Where(NamedTuple):
    """A worker's process."""

    host: str
    pid: int


class Standing(NamedTuple):
    """How far a worker's shot is."""

    began: float = 0.0  # share of the shot that earlier attempts had left behind
    share: float = 0.0  # that is done now


class Result(NamedTuple):
    """What came of an attempt at a shot; it failed if there is an error."""

    num_frames: int = 0
    num_kept: int = 0  # of these, left by earlier attempts
    already: bool = False  # nothing had to be done
    standing: Standing = Standing()
    error: str = ""
    code: str = ""
    retryable: bool = False


class Worker:
    """Runs as a Ray actor of two threads: one makes a shot while the other says how far it is."""

    def __init__(self, open_animator: Callable[[Path], Animator] = Animator.load):
        self.open_animator = open_animator
        self.bundle: Path | None = None
        self.animator: Animator | None = None
        self.course, self.began = Course(), 0.0

    def where(self) -> Where:
        return Where(platform.node(), os.getpid())

    def settle(self, rank: int, num_cpus: int) -> None:
        """Keep to CPUs of its own, where there are enough: engines take as many threads as they see CPUs."""
        cpus = sorted(os.sched_getaffinity(0))[rank * num_cpus : (rank + 1) * num_cpus]
        if num_cpus and len(cpus) == num_cpus:
            os.sched_setaffinity(0, cpus)

    def make(self, shot: Shot, force: bool) -> Result:
        """Failures come back as a result; only a worker that dies says nothing."""
        self.course, self.began = Course(), 0.0
        try:
            digest = shot.digest()
            if not force and is_done(shot, digest):
                return Result(already=True, standing=Standing(1.0, 1.0))
            made = make(shot, self.load(shot.bundle), digest, force=force, progress=self.progress)
        except AnimateError as error:
            return Result(0, 0, False, self.standing(), str(error), error.code, error.retryable)
        except Exception as error:  # no room on a disk, no memory, a mistake of ours
            reason = " ".join("".join(traceback.format_exception_only(error)).split())
            return Result(0, 0, False, self.standing(), reason, "internal", True)
        return Result(made.num_frames, made.num_kept, standing=self.standing())

    def standing(self) -> Standing:
        return Standing(self.began, self.course.share)

    def progress(self, progress: Progress) -> None:
        if progress.stage == "denoise" and not self.course.parts["denoise"]:
            self.course.add(progress)
            self.began = self.course.share
        self.course.add(progress)

    def load(self, bundle: Path) -> Animator:
        """A bundle's animator; that of the one before is let go."""
        if self.animator is None or self.bundle != bundle:
            if self.animator:
                self.animator.close()
            self.bundle, self.animator = None, None
            self.animator = self.open_animator(bundle)
            self.bundle = bundle
        return self.animator
