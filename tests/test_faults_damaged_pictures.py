"""Damaged pictures: read or refused in one line, in bounded time and memory."""

from __future__ import annotations

import random
import time
from pathlib import Path

from animate_rt.runtime.media.picture import read_picture
from animate_rt.runtime.media.pose_sequence import open_pose

from .damage import damaged, peak_bytes, refusal, reset_peak
from .pictures import samples


def test_400_damaged_pictures_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng, found, refused = random.Random(14), samples(), 0
    path, before = tmp_path / "a.png", reset_peak()
    for _ in range(400):
        path.write_bytes(damaged(rng.choice(found), rng))
        began = time.monotonic()
        for read in (lambda: read_picture(path, "white"), lambda: list(open_pose(path, 5))):
            message = refusal(read)
            refused += message is not None
            assert message is None or (message.isprintable() and len(message) < 1500)
        assert time.monotonic() - began < 10
    assert refused > 200
    assert peak_bytes() - before < 2e9
