"""The monitor: reports progress and result of a shot, as a progress bar or as lines for a program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from ...console import Console, Failure, complain, print_error
from ...text import escaped, field, quoted
from ..animator import Animator
from ..clip.progress import Progress
from .driven_poses import EXTRACT
from .previews import OVERLAY
from .shot import Shot
from .status import StatusLines, resolve_format


class Monitor:
    """Reports on a shot, or on a farm under the name of its job list, in one of the formats of status.py."""

    def __init__(self, console: Console, name: str, progress_format: str):
        self.console, console.bar.name = console, quoted(name)
        resolved = resolve_format(progress_format)
        self.lines = None if resolved == "auto" else StatusLines(resolved, name, sys.stdout)
        if self.lines:
            console.on_failure = self.failed

    def progress_callback(self, shot: Shot, animator: Animator) -> Callable[[Progress], None]:
        """The callback that shows the progress of the shot's clip."""
        lines = self.lines
        if lines is None:
            return clip_bar(self.console, len(shot.options.resolve(animator.bundle.manifest).steps))

        def show(progress: Progress) -> None:
            self.console.signals.check()
            lines.progress(progress)

        return show

    def begin(self, **about: str) -> None:
        if self.lines:
            self.lines.begin(**about)

    def end(self, shot: Shot, *, frames: int, kept: int, already: bool) -> None:
        self.console.bar.close()
        output = str(shot.output.path)
        if self.lines:
            self.lines.end(output=output, frames=frames, kept=kept, already_done=already)
        elif already:
            complain(f"{output} is already done; use --force to make it again")
        if not self.lines or self.lines.format != "json":
            print(escaped(output))

    def failed(self, failure: Failure) -> None:
        """Report a failure to the calling program, and print a line that rules on logs can match."""
        assert self.lines is not None
        with suppress(OSError):  # the calling program may have exited
            self.lines.fail(failure.message, failure.code, retryable=failure.retryable)
        print_error(
            f"animate_error code={failure.code} retryable={int(failure.retryable)} "
            f"status={failure.status} shot={field(self.lines.shot)}"
        )


def clip_bar(console: Console, steps: int) -> Callable[[Progress], None]:
    """Show a clip's progress on the bar. Stages overlap, so the bar shows reading poses until denoising
    starts, denoising until its last task, and then decoding."""
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
        elif stage in (shown, EXTRACT, OVERLAY):
            console.bar.show(stage, done, total, f"frame {done}/{total or '?'}")
        num_frames = done if stage == "decode" else num_frames

    return show
