"""Status: how far a shot is, as lines for the program that started it. People get a bar (progress.py).

    openjd   openjd_progress: 41.7            the percentage of the task, never less than before
             openjd_status: s010: denoise 25/60
    json     {"event": "progress", "shot": "s010", "stage": "denoise", "done": 25, "total": 60, ...}

Lines go to standard output, at most one of a kind per second, each at once.
"""

from __future__ import annotations

import json
import os
from time import monotonic
from typing import Any, TextIO

from ..clip.progress import Progress

FORMS = ("auto", "openjd", "json", "none")
LINE_S = 1.0  # between lines, at least
DENOISE = 0.9  # of a shot's time; the rest is decoding


def resolve_form(form: str) -> str:
    """`auto` is openjd within a session of Open Job Description, and otherwise for people."""
    return "openjd" if form == "auto" and "OPENJD_SESSION_WORKING_DIR" in os.environ else form


class OverallProgress:
    """How far a clip has come, as one number."""

    def __init__(self) -> None:
        self.share = 0.0  # of the whole clip; never falls
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
    """Lines of one shot or, under its list's name, of a farm, in the form "openjd", "json" or "none"."""

    def __init__(self, form: str, shot: str, stream: TextIO):
        self.form, self.shot, self.stream = form, shot, stream
        self.overall = OverallProgress()
        self.shown = -LINE_S

    def begin(self, **about: Any) -> None:
        """What makes it of what; among the first lines of a log."""
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
        if monotonic() - self.shown < LINE_S:
            return
        self.shown = monotonic()
        percent = round(100 * share, 1)
        if self.form == "openjd":
            self.write(f"progress: {percent}")
        self.write(f"status: {self.shot}: {line}", "progress", **fields, percent=percent)

    def end(self, **about: Any) -> None:
        if self.form == "openjd":
            self.write("progress: 100.0")
        self.write(f"status: {self.shot}: " + ", ".join(f"{k} {v}" for k, v in about.items()), "end", **about)

    def fail(self, message: str, code: str, *, retryable: bool) -> None:
        self.write(f"fail: {self.shot}: {message}", "fail", message=message, code=code, retryable=retryable)

    def write(self, line: str, event: str = "", **fields: Any) -> None:
        """`line` for openjd, the event and its fields for json."""
        if self.form == "openjd":
            text = "openjd_" + " ".join(line.split())
        elif self.form == "json" and event:
            text = json.dumps({"event": event, "shot": self.shot, **fields})
        else:
            return
        print(text, file=self.stream, flush=True)
