"""Status lines: progress of a shot, for the program that started it. People get a bar (console.py).

    openjd   openjd_progress: 41.7            percentage of the task; never decreases
             openjd_status: s010: denoise 25/60
    json     {"event": "progress", "shot": "s010", "stage": "denoise", "done": 25, "total": 60, ...}

Progress goes to standard output at most once per second. Every line is flushed at once.
"""

from __future__ import annotations

import json
import os
from time import monotonic
from typing import Any, TextIO

from ...text import encodable, one_line
from ..clip.progress import Progress

FORMATS = ("auto", "openjd", "json", "none")
LINE_S = 1.0  # minimum time between progress lines
DENOISE = 0.9  # fraction of a shot's time; the rest is decoding


def resolve_format(given: str) -> str:
    """Turn "auto" into "openjd" in a session of Open Job Description. Elsewhere "auto" is a progress bar."""
    return "openjd" if given == "auto" and "OPENJD_SESSION_WORKING_DIR" in os.environ else given


class OverallProgress:
    """Progress of a clip over all stages, as one fraction."""

    def __init__(self) -> None:
        self.share = 0.0  # fraction of the whole clip; never decreases
        self.num_frames = 0
        self.parts = {"denoise": 0.0, "decode": 0.0}

    def add(self, progress: Progress) -> None:
        if progress.stage in self.parts and progress.total:
            self.parts[progress.stage] = progress.done / progress.total
        if progress.stage == "decode":
            self.num_frames = progress.done
        share = DENOISE * self.parts["denoise"] + (1 - DENOISE) * self.parts["decode"]
        self.share = max(self.share, min(share, 1.0))


class StatusLines:
    """Status lines of a shot, or of a farm under the name of its job list.

    The format is "openjd", "json" or "none".
    """

    def __init__(self, line_format: str, shot: str, stream: TextIO):
        self.format, self.shot, self.stream = line_format, shot, stream
        self.overall = OverallProgress()
        self.shown_s = -LINE_S  # when the last progress line was written

    def begin(self, **about: Any) -> None:
        """Identify what makes the shot, near the top of a log: bundle, request, backend and device."""
        self.write(
            f"status: {self.shot}: " + ", ".join(f"{k} {v}" for k, v in about.items()), "begin", **about
        )

    def progress(self, progress: Progress) -> None:
        self.overall.add(progress)
        stage, done, total = progress
        frames = self.overall.num_frames
        line = f"{stage} {done}/{total or '?'}, {frames} frames finished"
        self.show(self.overall.share, line, stage=stage, done=done, total=total, frames=frames)

    def show(self, share: float, line: str, **fields: Any) -> None:
        if monotonic() - self.shown_s < LINE_S:
            return
        self.shown_s = monotonic()
        percent = round(100 * share, 1)
        if self.format == "openjd":
            self.write(f"progress: {percent}")
        self.write(f"status: {self.shot}: {line}", "progress", **fields, percent=percent)

    def end(self, **about: Any) -> None:
        if self.format == "openjd":
            self.write("progress: 100.0")
        self.write(f"status: {self.shot}: " + ", ".join(f"{k} {v}" for k, v in about.items()), "end", **about)

    def fail(self, message: str, code: str, *, retryable: bool) -> None:
        self.write(f"fail: {self.shot}: {message}", "fail", message=message, code=code, retryable=retryable)

    def write(self, line: str, event: str = "", **fields: Any) -> None:
        """Write `line` in the openjd format, or the event and its fields in the json format."""
        if self.format == "openjd":
            text = "openjd_" + one_line(line)
        elif self.format == "json" and event:
            document = {"event": event, "shot": self.shot, **fields}
            text = json.dumps({key: encodable(value) for key, value in document.items()})
        else:
            return
        print(text, file=self.stream, flush=True)
