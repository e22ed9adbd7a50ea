"""The progress bar on a terminal and elsewhere, and the contact sheet."""

from __future__ import annotations

import io

import numpy as np
import pytest
from animate_rt import console
from animate_rt.console import ProgressBar
from animate_rt.runtime.media.contact_sheet import COLUMNS, GAP, contact_sheet


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_at_intervals_and_at_both_ends_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "monotonic", iter([0.0, 1.0, 31.0, 40.0]).__next__)
    stream = io.StringIO()
    bar = ProgressBar(stream)
    for done in (0, 1, 31, 40):
        bar.show("denoise", done, 40, f"step {done}/40")
    assert stream.getvalue().splitlines() == [
        "denoise     0%  step 0/40  00:00",
        "denoise    77%  step 31/40  00:31  00:09 left",
        "denoise   100%  step 40/40  00:40",
    ]


def test_a_terminal_gets_one_line_per_stage() -> None:
    stream = Terminal()
    bar = ProgressBar(stream)
    for stage in ("pose", "decode"):
        for done in range(5):
            bar.show(stage, done, 4)
    bar.close()
    written = stream.getvalue()
    assert written.count("\n") == 2
    assert "#" * 24 in written
    assert "\r" in written


def test_an_unknown_total_shows_no_percentage() -> None:
    stream = io.StringIO()
    ProgressBar(stream).show("pose", 0, None, "frame 0/?")
    assert stream.getvalue() == "pose      frame 0/?  00:00\n"


@pytest.mark.parametrize("count", [1, 3, COLUMNS, 40])
def test_a_contact_sheet_shows_first_and_last_under_their_poses(count: int) -> None:
    reference = np.full((6, 4, 3), 7, np.uint8)
    poses = [np.full((6, 4, 3), 100 + i, np.uint8) for i in range(count)]
    frames = [np.full((6, 4, 3), 200 + i % 50, np.uint8) for i in range(count)]
    sheet = contact_sheet(reference, poses, frames)
    columns = 1 + min(count, COLUMNS)
    assert sheet.shape == (12 + 3 * GAP, columns * 4 + (columns + 1) * GAP, 3)
    assert sheet[GAP + 6 + GAP, GAP, 0] == 7
    for column, i in ((1, 0), (columns - 1, count - 1)):
        left = GAP + column * (4 + GAP)
        assert sheet[GAP, left, 0] == 100 + i
        assert sheet[GAP + 6 + GAP, left, 0] == 200 + i % 50
