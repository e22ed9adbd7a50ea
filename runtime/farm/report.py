"""The report of a farm: the state of each shot, and how busy the workers were."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

from ...atomic import write_text
from ...errors import OutputError
from ...text import encodable, one_line, quoted

REPORT_BEGIN = '{\n "states": '  # of report.json

State = Literal["waiting", "making", "done", "failed"]


@dataclass(slots=True)
class ShotReport:
    """State of one shot. Times are in seconds; `began_s` and `ended_s` count from the start of the farm."""

    name: str
    state: State = "waiting"
    already: bool = False  # done before the farm was started
    num_frames: int = 0  # finished
    num_before: int = 0  # of these, finished before the farm was started
    share: float = 0.0  # finished fraction of the shot
    attempts: int = 0
    deaths: int = 0  # attempts that ended because the worker died
    busy_s: float = 0.0  # duration of all attempts
    wasted_s: float = 0.0  # estimate of how much of busy_s was lost with workers that died
    worker: int | None = None  # index of the worker of the last attempt
    began_s: float = 0.0  # start of the last attempt
    ended_s: float = 0.0
    error: str = ""
    code: str = ""
    retryable: bool = False
    marks: dict[str, Any] = field(default_factory=dict)  # of the result, and those that were switched off

    def update(self, share: float, num_kept: int, num_frames: int) -> None:
        """Record the progress of an attempt that resumed with `num_kept` frames."""
        self.share = share
        if not self.num_frames:
            self.num_before = num_kept
        self.num_frames = max(self.num_frames, num_frames)


@dataclass(slots=True)
class FarmReport:
    """State of a farm and its shots."""

    shots: list[ShotReport]
    num_workers: int = 0
    worker_starts: int = 0
    wall_s: float = 0.0
    waiting_for: str = ""  # the resource without which no worker can start

    @property
    def states(self) -> Counter[State]:
        return Counter(shot.state for shot in self.shots)

    @property
    def share(self) -> float:
        """Finished fraction of all shots."""
        ended = ("done", "failed")
        shares = (1.0 if shot.state in ended else min(shot.share, 0.999) for shot in self.shots)
        return sum(shares) / len(self.shots)

    @property
    def has_ended(self) -> bool:
        """Whether every shot is done or has failed."""
        return self.states.keys() <= {"done", "failed"}

    @property
    def num_frames(self) -> int:
        """Number of frames that this farm has made so far."""
        return sum(shot.num_frames - shot.num_before for shot in self.shots)

    @property
    def retries(self) -> int:
        return sum(max(shot.attempts - 1, 0) for shot in self.shots)

    def document(self) -> dict[str, Any]:
        """The report as a JSON object, for programs."""
        busy_s = sum(shot.busy_s for shot in self.shots)
        wall_s = self.wall_s or 1.0
        return {
            "states": dict(self.states),
            "already_done": sum(shot.already for shot in self.shots),
            "frames": self.num_frames,
            "frames_per_second": round(self.num_frames / wall_s, 3),
            "workers": self.num_workers,
            "worker_starts": self.worker_starts,
            "wall_s": round(self.wall_s, 3),
            "utilisation": round(busy_s / (wall_s * max(self.num_workers, 1)), 4),
            "retries": self.retries,
            "worker_deaths": sum(shot.deaths for shot in self.shots),
            "wasted_s": round(sum(shot.wasted_s for shot in self.shots), 3),
            "shots": [dataclasses.asdict(shot) | {"name": encodable(shot.name)} for shot in self.shots],
        }

    def table(self) -> str:
        """The report as a text table, for people."""
        document = self.document()
        names = [quoted(shot.name) for shot in self.shots]
        width = max(map(len, names))
        lines = [f"{'shot':{width}}  state    frames  attempts    busy  error"]
        for name, shot in zip(names, self.shots, strict=True):
            state = "already" if shot.already else shot.state
            lines.append(
                f"{name:{width}}  {state:7}  {shot.num_frames:6}  {shot.attempts:8}  "
                f"{shot.busy_s:5.1f} s  {one_line(shot.error)}".rstrip()
            )
        states = ", ".join(f"{count} {state}" for state, count in document["states"].items())
        lines.append(
            f"{states}; {self.num_frames} frames in {self.wall_s:.1f} s, "
            f"{document['frames_per_second']:.2f} per second; {self.num_workers} workers, "
            f"{100 * document['utilisation']:.0f}% used; {self.retries} retries, "
            f"{document['wasted_s']:.1f} s of work repeated"
        )
        return "\n".join(lines)


def write_report(path: Path, report: FarmReport) -> None:
    """Write the report as JSON. Raises OutputError as `write_own` does."""
    write_own(path, REPORT_BEGIN, json.dumps(report.document(), indent=1) + "\n")


def write_own(path: Path, begin: str, text: str) -> None:
    """Write a text that begins with `begin`. Replaces only a file that does too: any other is not ours.

    Raises OutputError if there is another file, and if the text cannot be written.
    """
    check_own(path, begin)
    write_text(path, text)


def check_own(path: Path, begin: str) -> None:
    """Raise OutputError if the path is taken by anything but a regular file that begins with `begin`."""
    try:
        if S_ISREG(path.lstat().st_mode):
            with path.open("rb") as file:
                if file.read(len(begin.encode())) == begin.encode():
                    return
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{quoted(str(path))}: cannot read it: {error.strerror}") from error
    raise OutputError(
        f"{quoted(str(path))}: expected nothing there, or the file of an earlier farm, found something else; "
        "move it away, or choose another folder with --output"
    )
