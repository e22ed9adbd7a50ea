"""A worker of a farm: a process that makes one shot after another, with bundle and references cached."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ...engines.bundle import MANIFEST, read_bundle, read_manifest
from ...errors import AnimateError
from ...text import message_of
from ..animator import Animator
from ..clip.progress import Progress
from ..shots.checks import check
from ..shots.loaded_bundle import check_unchanged
from ..shots.making import make
from ..shots.shot import Shot, clear_leftovers, is_done
from ..shots.status import OverallProgress


class WorkerProcess(NamedTuple):
    """Host and process id of a worker."""

    host: str
    pid: int


class ShotProgress(NamedTuple):
    """Progress of one attempt at a shot."""

    resumed: float = 0.0  # fraction of the shot already finished by earlier attempts
    share: float = 0.0  # fraction finished now
    num_kept: int = 0  # frames already finished by earlier attempts
    num_frames: int = 0  # frames finished now


class Result(NamedTuple):
    """Result of an attempt at a shot. It failed if `error` is not empty."""

    shot_progress: ShotProgress = ShotProgress()
    already: bool = False  # the shot was already done
    error: str = ""
    code: str = ""
    retryable: bool = False


class Attempt:
    """Progress of one attempt at a shot. One thread adds to it while another reads `progress`."""

    def __init__(self, shot: str):
        self.shot = shot
        self.progress = ShotProgress()  # none before the attempt has begun to denoise
        self.overall = OverallProgress()
        self.initial: ShotProgress | None = None  # progress when the attempt began to denoise

    def add(self, progress: Progress) -> None:
        self.overall.add(progress)
        share, num_frames = self.overall.share, self.overall.num_frames
        if self.initial is None and progress.stage == "denoise" and progress.total:
            self.initial = ShotProgress(share, share, num_frames, num_frames)
        if self.initial:  # assigned as one, so that a reader never sees half of it
            self.progress = ShotProgress(self.initial.resumed, share, self.initial.num_kept, num_frames)


class Worker:
    """Runs as a Ray actor with two threads: one makes a shot while the other reports its progress."""

    def __init__(self, open_animator: Callable[[Path], Animator] = Animator.load):
        self.open_animator = open_animator
        self.cpus = sorted(os.sched_getaffinity(0))
        self.bundle: Path | None = None
        self.animator: Animator | None = None
        self.attempt = Attempt("")

    def process(self) -> WorkerProcess:
        return WorkerProcess(platform.node(), os.getpid())

    def make(self, shot: Shot, force: bool = False, cpus: range = range(0)) -> Result:
        """Make a shot. Errors are returned in the result, not raised.

        `cpus` are indices of the CPUs to run on, among those of this process: engines use as many threads as
        they see CPUs. If the process has fewer CPUs, or `cpus` is empty, the affinity stays as it is.
        """
        own = self.cpus[cpus.start : cpus.stop]
        if own and len(own) == len(cpus):
            os.sched_setaffinity(0, own)  # of this thread and those it starts later
        self.attempt = attempt = Attempt(shot.name)
        try:
            digest = shot.digest()
            if not force and is_done(shot, digest):
                clear_leftovers(shot, digest)
                num_frames = shot.output.num_frames
                return Result(ShotProgress(1.0, 1.0, num_frames, num_frames), already=True)
            check(shot, read_bundle(shot.bundle))  # before it is loaded, which is slow
            result = make(shot, self.load(shot.bundle), force=force, progress=attempt.add)
        except AnimateError as error:
            retryable = error.retryable or self.is_outdated(shot.bundle)
            return Result(attempt.progress, False, message_of(error), error.code, retryable)
        except Exception as error:
            code = "io" if isinstance(error, OSError) else "internal"
            code = "out_of_memory" if isinstance(error, MemoryError) else code
            reason = f"{type(error).__name__}: {message_of(error)}"
            return Result(attempt.progress, False, reason, code, True)
        return Result(ShotProgress(attempt.progress.resumed, 1.0, result.num_kept, result.num_frames))

    def shot_progress(self, shot: str) -> ShotProgress:
        """Progress of the shot of that name; none if this worker has not started it yet."""
        attempt = self.attempt
        return attempt.progress if attempt.shot == shot else ShotProgress()

    def load(self, bundle: Path) -> Animator:
        """Return the animator of the bundle that is at this path now.

        Closes the animator before, if it has another bundle, or one that was built again or written to.
        """
        if self.animator is None or self.bundle != bundle or self.is_outdated(bundle):
            if self.animator:
                self.animator.close()
            self.bundle, self.animator = None, None
            self.animator = self.open_animator(bundle)
            self.bundle = bundle
        return self.animator

    def is_outdated(self, bundle: Path) -> bool:
        """Whether a bundle of this path is loaded, but is no longer the one on disk."""
        if self.animator is None or self.bundle != bundle:
            return False
        try:
            check_unchanged(self.animator.bundle, thorough=True)
            return str(read_manifest(bundle / MANIFEST)["digest"]) != self.animator.bundle.digest
        except AnimateError:
            return True
