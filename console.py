"""The console: what all commands share. Progress, stopping on a signal, and failing in one line."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import NamedTuple, TextIO, TypeAlias

from .errors import AnimateError, ConfigError

INTERNAL, IO_ERROR, TRY_AGAIN, SIGNALLED = 70, 74, 75, 128  # a signal's number is added to the last

BAR_WIDTH = 24
REDRAW_S, LINE_S = 0.1, 30.0  # least time between two drawings, on a terminal and elsewhere

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = "Callable[[argparse.Namespace, Console], None]"


class Console:
    """What a running command reports to, and asks whether to stop."""

    def __init__(self, signals: SignalGuard):
        self.signals = signals
        self.bar = ProgressBar(sys.stderr)
        self.on_failure: Callable[[Failure], None] = lambda _failure: None  # for programs that listen

    def step(self, what: str) -> None:
        """Show which step of the command runs, "STAGE" or "STAGE: DETAIL"; stop here if asked to."""
        self.signals.check()
        stage, _, detail = what.partition(": ")
        self.bar.show(stage, detail=detail)

    def failed(self, failure: Failure) -> None:
        complain(failure.message)
        self.on_failure(failure)


def run_command(options: argparse.Namespace) -> int:
    """Run the command that was parsed and return its exit status (errors.py lists them)."""
    with SignalGuard() as signals:
        console = Console(signals)
        try:
            try:
                options.run(options, console)
            finally:
                console.bar.close()
        except BaseException as error:
            failure = failure_of(error, signals)
            if failure.status == INTERNAL and not isinstance(error, AnimateError):
                traceback.print_exc()
            console.failed(failure)
            return failure.status
    return 0


def open_output() -> None:
    """Make standard output and error usable where the parent process closed them, or set a poor locale."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def add_command(commands: Commands, run: Run, purpose: str) -> argparse.ArgumentParser:
    """Add a command named like the function that runs it."""
    command: argparse.ArgumentParser = commands.add_parser(run.__name__, help=purpose, description=purpose)
    command.set_defaults(run=run)
    return command


def need_packages(extra: str, *modules: str) -> None:
    """Raise ConfigError, in one line that says what to install, where one of these modules is missing."""
    if missing := [name for name in modules if not find_spec(name)]:
        raise ConfigError(
            f"expected the packages of animate-rt[{extra}], found no {', '.join(missing)}; "
            f"pip install torch==2.13.0 'animate-rt[{extra}]'"
        )


class ProgressBar:
    """Shows one stage after another: a bar that redraws itself on a terminal, plain lines elsewhere. A
    stage's first and last state are always shown."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.live = stream.isatty()
        self.name = self.stage = ""
        self.began = self.shown = 0.0

    def show(self, stage: str, done: int = 0, total: int | None = None, detail: str = "") -> None:
        """`done` of `total` units of this stage are finished; `detail` says the same in words."""
        now = monotonic()
        if stage != self.stage:
            self.close()
            self.stage, self.began, self.shown = stage, now, -LINE_S
        if done == total or now - self.shown >= (REDRAW_S if self.live else LINE_S):
            self.shown = now
            self.draw(self.line(now - self.began, done, total, detail))

    def line(self, elapsed_s: float, done: int, total: int | None, detail: str) -> str:
        parts = [f"{self.stage:8}"]
        if total:
            filled = BAR_WIDTH * done // total
            parts += [f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"] if self.live else []
            parts.append(f"{100 * done // total:3}%")
        parts += [self.name] if self.name and not self.live else []  # to tell lines in a shared log apart
        parts += [detail] if detail else []
        parts.append(clock(elapsed_s))
        if total and 0 < done < total:
            parts.append(f"{clock(elapsed_s * (total - done) / done)} left")
        return "  ".join(parts)

    def draw(self, line: str) -> None:
        # Erase to the end of the line: the line before may have been longer.
        print(f"\r{line}\x1b[K" if self.live else line, end="" if self.live else "\n", file=self.stream)
        self.stream.flush()

    def close(self) -> None:
        """End the line, and keep its last state visible."""
        if self.live and self.stage:
            print(file=self.stream, flush=True)
        self.stage = ""


class SignalGuard:
    """Turns SIGINT and SIGTERM into SystemExit at the next `check`.

    Raising in the handler could interrupt an import and leave its lock held. A second signal stops at once.
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
    """Why a command failed."""

    message: str
    status: int
    code: str
    retryable: bool


def failure_of(error: BaseException, signals: SignalGuard) -> Failure:
    if signals.status:
        message = "stopped; no unfinished file has the output's name, and the same command resumes a clip"
        return Failure(message, signals.status, "stopped", True)
    if isinstance(error, AnimateError):
        return Failure(str(error), error.exit_status, error.code, error.retryable)
    if isinstance(error, MemoryError):
        message = "out of memory; use a smaller size, window or number of frames"
        return Failure(message, TRY_AGAIN, "out_of_memory", True)
    if isinstance(error, OSError):
        return Failure(str(error), IO_ERROR, "io", True)
    return Failure(f"internal error: {type(error).__name__}: {error}", INTERNAL, "internal", False)


def complain(message: str) -> None:
    """Print one line to standard error."""
    print(f"animate-rt: {' '.join(message.split())}", file=sys.stderr)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02}:{rest:02}"
