"""What all commands share: progress output, stopping on a signal, error messages of one line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import NamedTuple, NoReturn, TextIO, TypeAlias

from .errors import AnimateError, ConfigError
from .text import bounded, escaped, message_of, one_line

# Exit statuses besides those of errors.py; after a signal, its number is added to SIGNALLED.
INTERNAL, IO_ERROR, TRY_AGAIN, SIGNALLED = 70, 74, 75, 128

BAR_WIDTH = 24
REDRAW_S, LINE_S = 0.1, 30.0  # minimum time between two updates, on a terminal and elsewhere

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
# A command returns its exit status, or nothing if it can only succeed or raise.
Run: TypeAlias = "Callable[[argparse.Namespace, Console], int | None]"


class Console:
    """Shows the progress and the failure of the running command, and stops it after a signal."""

    def __init__(self, signals: SignalGuard):
        self.signals = signals
        self.bar = ProgressBar(sys.stderr)
        # Commands that report to another program replace it.
        self.on_failure: Callable[[Failure], None] = lambda _failure: None

    def step(self, what: str) -> None:
        """Show the current step, "STAGE" or "STAGE: DETAIL". Raises SystemExit after a signal."""
        self.signals.check()
        stage, _, detail = what.partition(": ")
        self.bar.show(stage, detail=detail)

    def failed(self, failure: Failure) -> None:
        complain(failure.message)
        self.on_failure(failure)


class LogLines(logging.Handler):
    """Prints what modules log, such as what is unusual about an input, in the form of the error messages."""

    def __init__(self, bar: ProgressBar):
        super().__init__(logging.WARNING)
        self.bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        self.bar.close()
        complain(record.getMessage())


@contextmanager
def logging_to(console: Console) -> Iterator[None]:
    logger, lines = logging.getLogger("animate_rt"), LogLines(console.bar)
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)


def run_command(options: argparse.Namespace) -> int:
    """Run the command that was parsed and return its exit status (errors.py lists them)."""
    with SignalGuard() as signals:
        console = Console(signals)
        try:
            try:
                with logging_to(console):
                    status: int | None = options.run(options, console)
                sys.stdout.flush()  # here, where it can still fail with a status and a message
            finally:
                console.bar.close()
        except BaseException as error:
            failure = failure_of(error, signals)
            if failure.status == INTERNAL and not isinstance(error, AnimateError):
                print_error("\n".join(map(escaped, traceback.format_exc().splitlines())))
            console.failed(failure)
            return failure.status
    return status or 0


def open_output() -> None:
    """Make standard output and error usable if the parent process closed them, or if the locale cannot encode
    all characters."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A parser whose error messages quote the command line safely."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def add_command(commands: Commands, run: Run, purpose: str) -> argparse.ArgumentParser:
    """Add a command named like the function that runs it, with hyphens for underscores."""
    name = run.__name__.replace("_", "-")
    command: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose)
    command.set_defaults(run=run)
    return command


def need_packages(extra: str, *modules: str) -> None:
    """Raise ConfigError, with the command that installs them, if one of these modules is missing."""
    if missing := [name for name in modules if not find_spec(name)]:
        raise ConfigError(
            f"expected the packages of animate-rt[{extra}], found no {', '.join(missing)}; "
            f"pip install torch==2.13.0 'animate-rt[{extra}]'"
        )


class ProgressBar:
    """Shows the progress of one stage after another: a bar that redraws itself on a terminal, plain lines
    elsewhere. The first and last state of a stage are always shown."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.live = stream.isatty()
        self.name = self.stage = ""
        self.began = self.shown = 0.0

    def show(self, stage: str, done: int = 0, total: int | None = None, detail: str = "") -> None:
        """Show that `done` of `total` units of this stage are finished. `detail` describes it in words."""
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
        parts += [self.name] if self.name and not self.live else []  # several shots may share a log
        parts += [detail] if detail else []
        parts.append(clock(elapsed_s))
        if total and 0 < done < total:
            parts.append(f"{clock(elapsed_s * (total - done) / done)} left")
        return "  ".join(parts)

    def draw(self, line: str) -> None:
        line = bounded(line)
        # Erase to the end of the line: the line before may have been longer.
        self.write(f"\r{line}\x1b[K" if self.live else f"{line}\n")

    def close(self) -> None:
        """End the line, so that the last state stays visible."""
        if self.live and self.stage:
            self.write("\n")
        self.stage = ""

    def write(self, text: str) -> None:
        with suppress(OSError):  # a command does not fail because nobody can see its progress
            print(text, end="", file=self.stream, flush=True)


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

    message: str  # one line
    status: int
    code: str
    retryable: bool


def failure_of(error: BaseException, signals: SignalGuard) -> Failure:
    if signals.status:
        message = "stopped; no incomplete file has the output's name, and the same command resumes a clip"
        return Failure(message, signals.status, "stopped", True)
    if isinstance(error, AnimateError):
        return Failure(one_line(message_of(error)), error.exit_status, error.code, error.retryable)
    if isinstance(error, MemoryError):
        message = "out of memory; use a smaller size, window or number of frames"
        return Failure(message, TRY_AGAIN, "out_of_memory", True)
    if isinstance(error, OSError):
        return Failure(one_line(message_of(error)), IO_ERROR, "io", True)
    message = one_line(f"internal error: {type(error).__name__}: {message_of(error)}")
    return Failure(message, INTERNAL, "internal", False)


def complain(message: str) -> None:
    """Print one line to standard error."""
    print_error(f"animate-rt: {one_line(message)}")


def print_error(text: str) -> None:
    """Print to standard error. Does nothing if that fails, as the exit status tells the same."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02}:{rest:02}"
