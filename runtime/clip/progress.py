"""Progress of a clip, and for people: a bar that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, TextIO

BAR_WIDTH = 24
REDRAW_S, LINE_S = 0.1, 30.0  # at most one drawing per so many seconds, on a terminal and elsewhere


class Progress(NamedTuple):
    """How far a clip has come."""

    stage: str  # "pose", "denoise" or "decode"
    done: int
    total: int | None  # None while the pose sequence's length is unknown


ProgressCallback = Callable[[Progress], None]


def counter(
    progress: ProgressCallback, stage: str, total: Callable[[], int | None], done: int = 0
) -> Callable[[], None]:
    """Report a stage's beginning now, and one more thing done at each call. A total that is known stays so:
    to count a clip's windows at every task would be quadratic in its length."""
    known = total()

    def tick() -> None:
        nonlocal done, known
        done += 1
        known = total() if known is None else known
        progress(Progress(stage, done, known))

    progress(Progress(stage, done, known))
    return tick


class ProgressBar:
    """Shows one stage after another; a stage's first and last state are always shown."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.live = stream.isatty()
        self.name = self.stage = ""
        self.began = self.shown = 0.0

    def show(self, stage: str, done: int = 0, total: int | None = None, detail: str = "") -> None:
        """`done` of `total` things of this stage are finished; `detail` says in words how far that is."""
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
        parts += [self.name] if self.name and not self.live else []  # lines end up in a log of many
        parts += [detail] if detail else []
        parts.append(clock(elapsed_s))
        if total and 0 < done < total:
            parts.append(f"{clock(elapsed_s * (total - done) / done)} left")
        return "  ".join(parts)

    def draw(self, line: str) -> None:
        # Erase to the end of the line: what stood there before may have been longer.
        print(f"\r{line}\x1b[K" if self.live else line, end="" if self.live else "\n", file=self.stream)
        self.stream.flush()

    def close(self) -> None:
        """Leave the last state standing."""
        if self.live and self.stage:
            print(file=self.stream, flush=True)
        self.stage = ""


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02}:{rest:02}"
