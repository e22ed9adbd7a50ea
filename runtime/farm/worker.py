"""A worker of a farm: a process with a bundle loaded and its references at hand, making shot after shot."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ...errors import AnimateError
from ..animator import Animator
from ..clip.progress import Progress
from ..shots.shot import Shot, is_done, make
from ..shots.status import OverallProgress


class WorkerProcess(NamedTuple):
    """A worker's process."""

    host: str
    pid: int


class ShotProgress(NamedTuple):
    """How far a worker's shot is."""

    began: float = 0.0  # share of the shot that earlier attempts had left behind
    share: float = 0.0  # that is done now
    num_kept: int = 0  # frames that earlier attempts had finished
    num_frames: int = 0  # that are finished now


class Result(NamedTuple):
    """What came of an attempt at a shot; it failed if there is an error."""

    shot_progress: ShotProgress = ShotProgress()
    already: bool = False  # nothing had to be done
    error: str = ""
    code: str = ""
    retryable: bool = False


class Worker:
    """Runs as a Ray actor of two threads: one makes a shot while the other says how far it is."""

    def __init__(self, open_animator: Callable[[Path], Animator] = Animator.load):
        self.open_animator = open_animator
        self.cpus = sorted(os.sched_getaffinity(0))
        self.bundle: Path | None = None
        self.animator: Animator | None = None
        self.shot, self.overall = "", OverallProgress()
        self.began: ShotProgress | None = None

    def where(self) -> WorkerProcess:
        return WorkerProcess(platform.node(), os.getpid())

    def make(self, shot: Shot, force: bool = False, cpus: range = range(0)) -> Result:
        """Failures come back as a result; only a worker that dies says nothing.

        `cpus` are those of its host to keep to: engines take as many threads as they see CPUs.
        """
        own = self.cpus[cpus.start : cpus.stop]
        if own and len(own) == len(cpus):
            os.sched_setaffinity(0, own)  # of this thread, and of those that it will start
        self.shot, self.overall, self.began = shot.name, OverallProgress(), None
        try:
            digest = shot.digest()
            if not force and is_done(shot, digest):
                num_frames = shot.output.num_frames
                return Result(ShotProgress(1.0, 1.0, num_frames, num_frames), already=True)
            made = make(shot, self.load(shot.bundle), digest, force=force, progress=self.progress)
        except AnimateError as error:
            return Result(self.shot_progress(shot.name), False, str(error), error.code, error.retryable)
        except Exception as error:  # no room on a disk, no memory, a mistake of ours
            reason = " ".join("".join(traceback.format_exception_only(error)).split())
            return Result(self.shot_progress(shot.name), False, reason, "internal", True)
        return Result(ShotProgress(self.shot_progress(shot.name).began, 1.0, *made))

    def shot_progress(self, shot: str) -> ShotProgress:
        """Of that shot, which may not have reached this worker yet."""
        if shot != self.shot or self.began is None:
            return ShotProgress()
        began, _, num_kept, _ = self.began
        return ShotProgress(began, self.overall.share, num_kept, self.overall.num_frames)

    def progress(self, progress: Progress) -> None:
        self.overall.add(progress)
        if self.began is None and progress.stage == "denoise" and progress.total:
            num_frames = self.overall.num_frames
            self.began = ShotProgress(self.overall.share, self.overall.share, num_frames, num_frames)

    def load(self, bundle: Path) -> Animator:
        """A bundle's animator; that of the one before is let go."""
        if self.animator is None or self.bundle != bundle:
            if self.animator:
                self.animator.close()
            self.bundle, self.animator = None, None
            self.animator = self.open_animator(bundle)
            self.bundle = bundle
        return self.animator
