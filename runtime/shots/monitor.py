"""What a command tells of itself while it runs and when it fails, and where it stops when it is asked to."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NamedTuple

from ...errors import AnimateError
from ..animator import Animator
from ..clip.progress import Progress, ProgressBar
from ..clip.sampler import num_steps
from ..farm.report import FarmReport
from .shot import Shot
from .status import StatusLines, resolve_form

INTERNAL, IO_ERROR, TRY_AGAIN, SIGNALLED = 70, 74, 75, 128  # a signal's number is added to the last


class Monitor:
    """What a running command tells of itself, and where it stops when it has been asked to."""

    def __init__(self, stop: SignalGuard):
        self.stop = stop
        self.bar = ProgressBar(sys.stderr)
        self.lines: StatusLines | None = None  # of a shot that a program follows

    def building(self, what: str) -> None:
        self.stop.check()
        stage, _, detail = what.partition(": ")
        self.bar.show(stage, detail=detail)

    def verifying(self, graph: str) -> None:
        self.building(f"verify {graph}")

    def animating(self, steps: int) -> Callable[[Progress], None]:
        """Stages overlap: what is shown is how far denoising has come, and before and after it the others."""
        shown, num_frames = "pose", 0

        def show(progress: Progress) -> None:
            nonlocal shown, num_frames
            self.stop.check()
            stage, done, total = progress
            if stage == "denoise":
                shown = "denoise" if done != total else "decode"
                if num_frames or not total:
                    detail = f"{num_frames} frames finished"
                else:
                    detail = f"step {min(done * steps // total + 1, steps)}/{steps}"
                self.bar.show(stage, done, total, detail)
            elif stage == shown:
                self.bar.show(stage, done, total, f"frame {done}/{total or '?'}")
            num_frames = done if stage == "decode" else num_frames

        return show

    def follow(self, shot: str, form: str) -> None:
        """Tell of that shot in the form that was asked for."""
        form, self.bar.name = resolve_form(form), shot
        self.lines = None if form == "auto" else StatusLines(form, shot, sys.stdout)

    def making(self, shot: Shot, animator: Animator) -> Callable[[Progress], None]:
        """How far a shot is."""
        lines = self.lines
        if lines is None:
            return self.animating(num_steps(shot.steps or animator.model.sampling.schedule))

        def show(progress: Progress) -> None:
            self.stop.check()
            lines.progress(progress)

        return show

    def begin(self, **about: str) -> None:
        if self.lines:
            self.lines.begin(**about)

    def made(self, shot: Shot, *, frames: int, kept: int, already: bool) -> None:
        self.bar.close()
        output = str(shot.output.path)
        if self.lines:
            self.lines.end(output=output, frames=frames, kept=kept, already_done=already)
        elif already:
            print(f"animate-rt: {output} is done already; --force makes it anew", file=sys.stderr)
        if not self.lines or self.lines.form != "json":
            print(output)

    def farming(self, report: FarmReport) -> None:
        self.stop.check()
        done, failed = report.states["done"], report.states["failed"]
        frames, retries, missing = report.num_frames, report.retries, report.missing
        detail = (
            f"{done}/{len(report.shots)} shots, {frames} frames, {retries} retries, {failed} set aside"
            f"{', waiting for ' + missing if missing else ''}"
        )
        if self.lines:
            counts = {"done": done, "failed": failed, "frames": frames, "retries": retries}
            self.lines.show(report.share, detail, shots=len(report.shots), missing=missing, **counts)
        else:
            self.bar.show("farm", int(1000 * report.share), 1000, detail)

    def failed(self, failure: Failure) -> None:
        """One line for people; where a program listens, one it can take apart, too."""
        complain(failure.message)
        if self.lines:
            with suppress(OSError):  # nobody may be listening any more
                self.lines.fail(failure.message, failure.code, retryable=failure.retryable)
            print(
                f"animate_error code={failure.code} retryable={int(failure.retryable)} "
                f"status={failure.status} shot={self.lines.shot}",
                file=sys.stderr,
            )

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class SignalGuard:
    """SIGINT and SIGTERM, turned into SystemExit where it is safe: at the next `check`.

    Raised at once it could strike inside an import and leave that module's lock held for ever. Whoever cannot
    wait signals twice.
    """

    def __init__(self) -> None:
        self.status = 0

    def check(self) -> None:
        if self.status:
            raise SystemExit(self.status)

    def __enter__(self) -> SignalGuard:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self.note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.check()
        self.status = SIGNALLED + number


class Failure(NamedTuple):
    """How a command ended that did not do what it was asked to."""

    message: str
    status: int
    code: str
    retryable: bool


def failure_of(error: BaseException, stop: SignalGuard) -> Failure:
    if stop.status:
        message = "stopped; nothing was left under the output's name, and a clip goes on from here next time"
        return Failure(message, stop.status, "stopped", True)
    if isinstance(error, AnimateError):
        return Failure(str(error), error.exit_status, error.code, error.retryable)
    if isinstance(error, MemoryError):
        message = "out of memory; use a smaller size, window or number of frames"
        return Failure(message, TRY_AGAIN, "out_of_memory", True)
    if isinstance(error, OSError):
        return Failure(str(error), IO_ERROR, "io", True)
    return Failure(f"internal error: {type(error).__name__}: {error}", INTERNAL, "internal", False)


def complain(message: str) -> None:
    print(f"animate-rt: {' '.join(message.split())}", file=sys.stderr)
