"""A long clip in the time-skewed order: its first frames come early, and memory does not grow with length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from animate_rt.export import build_bundle

WINDOW, OVERLAP, STEPS = 24, 4, 20

SCRIPT = """
import json, resource, sys, time
import numpy as np
from animate_rt import Animator

bundle, num_frames = sys.argv[1], int(sys.argv[2])

def poses():
    for i in range(num_frames):
        yield np.full((96, 64, 3), i % 256, np.uint8)

with Animator.load(bundle) as animator:
    began = time.perf_counter()
    clip = animator.animate(
        np.zeros((96, 64, 3), np.uint8), poses(), steps=STEPS, overlap=OVERLAP, windows="open"
    )
    times = []
    for frame in clip:
        times.append(time.perf_counter() - began)
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"frames": len(times), "first_s": times[0], "total_s": times[-1], "rss_kb": rss}))
""".replace("STEPS", str(STEPS)).replace("OVERLAP", str(OVERLAP))


def run(bundle: Path, num_frames: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, os.fspath(bundle), str(num_frames)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["frames"] == num_frames
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_first_frames_come_early_and_memory_does_not_grow_with_length(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    build_bundle(small.checkpoint, bundle, **small.build_options | {"window": WINDOW})
    half, whole = run(bundle, 900), run(bundle, 1800)
    first, growth = whole["first_s"] / whole["total_s"], whole["rss_kb"] / half["rss_kb"] - 1
    with capsys.disabled():
        print(
            f"\n1800 frames in {whole['total_s']:.0f} s, the first after {first:.1%}; peak memory "
            f"{whole['rss_kb'] / 1024:.0f} MB, {growth:+.1%} on that of 900 frames"
        )
    assert first <= 0.15
    assert growth <= 0.05
