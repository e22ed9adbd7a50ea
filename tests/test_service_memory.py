"""Memory of a service that makes clips of random lengths and overlaps, one after another."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from animate_rt import Animator, ClipOptions
from animate_rt.engines.bundle import Bundle, open_bundle
from animate_rt.runtime.clip.memory_plan import plan_memory
from animate_rt.runtime.streams.pool import SLACK

from .arithmetic import ArithmeticEngine


class Request(NamedTuple):
    num_frames: int
    options: ClipOptions


def clips_of_a_day(count: int) -> list[Request]:
    chance = random.Random(0)
    plain = ClipOptions(steps=1, guidance_scale=1)
    return [
        Request(
            chance.randint(1, 300),
            replace(plain, overlap=chance.randint(0, 5), windows=chance.choice(["uniform", "open"])),
        )
        for _ in range(count)
    ]


def make_clips(animator: Animator, clips: list[Request]) -> int:
    """Make clips one after another; return the maximum of the pool's bytes."""
    picture, most = np.zeros((96, 64, 3), np.uint8), 0
    for num_frames, options in clips:
        poses = (picture for _ in range(num_frames))
        for _ in animator.animate(picture, poses, options):
            pass
        pool = animator.session.pool
        most = max(most, sum(free.allocated_bytes for free in pool.free.values()))
    return most


def largest(bundle: Bundle, clips: list[Request]) -> Request:
    def num_bytes(clip: Request) -> int:
        return plan_memory(bundle, clip.options.resolve(bundle.manifest), clip.num_frames).clip

    return max(clips, key=num_bytes)


@pytest.mark.slow
def test_the_pool_of_a_morning_is_bounded(arithmetic: Callable[..., Animator]) -> None:
    clips = clips_of_a_day(60)
    with arithmetic() as animator:
        most_of_one = make_clips(animator, [largest(animator.bundle, clips)])
    with arithmetic() as animator:
        most = make_clips(animator, clips)
        free = animator.session.pool.free
        assert free[False].allocated_bytes <= (1 + SLACK) * free[False].peak_bytes
    assert most <= 1.4 * most_of_one


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_of_a_service_s_day(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """500 clips of 1 to 300 frames: memory within 10 % of that of the largest clip alone."""
    found = {}
    for which in ("one", "day"):
        command = [sys.executable, "-m", "animate_rt.tests.test_service_memory", str(small_bundle), which]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[which] = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\nMB of the largest clip alone, and at the end of a day of 500: {found}")
    assert found["day"]["rss"] <= 1.1 * found["one"]["rss"]
    assert found["day"]["pool"] <= 1.4 * found["one"]["pool"]


def day(bundle: str, which: str) -> None:
    opened = open_bundle(bundle)
    clips = clips_of_a_day(500)
    with Animator(opened, load=ArithmeticEngine) as animator:
        most = make_clips(animator, clips if which == "day" else [largest(opened, clips)])
        lines = Path("/proc/self/status").read_text().splitlines()
        rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    print(json.dumps({"rss": round(rss / 1024, 1), "pool": round(most / 1e6, 2)}))


if __name__ == "__main__":
    day(*sys.argv[1:])
