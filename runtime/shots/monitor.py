"""The monitor: progress and result of a shot, as a bar for people or as lines for a program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from ...console import Console, Failure
from ..animator import Animator
from ..clip.progress import Progress
from ..clip.sampler import num_steps
from .shot import Shot
from .status import StatusLines, resolve_form


class Monitor:
    """Follows one shot, or a farm under the name of its job list, in one of the forms of status.py."""

    def __init__(self, console: Console, name: str, form: str):
        self.console, console.bar.name = console, name
        form = resolve_form(form)
        self.lines = None if form == "auto" else StatusLines(form, name, sys.stdout)
        if self.lines:
            console.on_failure = self.failed

    def making(self, shot: Shot, animator: Animator) -> Callable[[Progress], None]:
        """A callback for the progress of the shot's clip."""
        lines = self.lines
        if lines is None:
            schedule = shot.options.steps or animator.bundle.manifest.model.sampling.schedule
            return clip_bar(self.console, num_steps(schedule))

        def show(progress: Progress) -> None:
            self.console.signals.check()
            lines.progress(progress)

        return show

    def begin(self, **about: str) -> None:
        if self.lines:
            self.lines.begin(**about)

    def made(self, shot: Shot, *, frames: int, kept: int, already: bool) -> None:
        self.console.bar.close()
        output = str(shot.output.path)
        if self.lines:
            self.lines.end(output=output, frames=frames, kept=kept, already_done=already)
        elif already:
            print(f"animate-rt: {output} is already done; --force makes it again", file=sys.stderr)
        if not self.lines or self.lines.form != "json":
            print(output)

    def failed(self, failure: Failure) -> None:
        """Tell the program that listens, and leave a line that it can find in a log."""
        assert self.lines is not None
        with suppress(OSError):  # it may have gone
            self.lines.fail(failure.message, failure.code, retryable=failure.retryable)
        print(
            f"animate_error code={failure.code} retryable={int(failure.retryable)} "
            f"status={failure.status} shot={self.lines.shot}",
            file=sys.stderr,
        )


def clip_bar(console: Console, steps: int) -> Callable[[Progress], None]:
    """Show a clip's progress on the bar. Its stages overlap: the bar shows denoising from its first task to
    its last, poses before that and decoding after it."""
    shown, num_frames = "pose", 0

    def show(progress: Progress) -> None:
        nonlocal shown, num_frames
        console.signals.check()
        stage, done, total = progress
        if stage == "denoise":
            shown = "denoise" if done != total else "decode"
            if num_frames or not total:
                detail = f"{num_frames} frames finished"
            else:
                detail = f"step {min(done * steps // total + 1, steps)}/{steps}"
            console.bar.show(stage, done, total, detail)
        elif stage == shown:
            console.bar.show(stage, done, total, f"frame {done}/{total or '?'}")
        num_frames = done if stage == "decode" else num_frames

    return show
