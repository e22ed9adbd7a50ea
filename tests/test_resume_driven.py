"""A driven shot whose process is killed while poses are extracted or frames are made has the same bytes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from animate_rt.runtime.poses.driving import Driving
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.resume import KEYPOINTS

from .fixed_cost import example, open_animator, write_inputs
from .slow import SLOW
from .square_networks import picture
from .square_networks import pose_bundle as squares
from .stopped_shots import result
from .test_driving_videos import video

STAGES = "extract", "denoise"
OVER = "over"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a reference with a person, dance.mp4, and networks that find both people."""
    folder = write_inputs(tmp_path_factory.mktemp("inputs"), num_poses=1)
    picture((300, 200, 30)).save(folder / "reference.png")
    video(folder / "dance.mp4", [picture((80 + 8 * i, 200 + i % 5, 24)) for i in range(24)])
    (folder / "networks").mkdir()
    squares(folder / "networks")
    return folder


@contextmanager
def process(inputs: Path, output: Path, cost_s: float) -> Iterator[Any]:
    """A process that makes the shot. It prints the stage after every step, and OVER at the end."""
    command = [
        sys.executable,
        "-m",
        "animate_rt.tests.test_resume_driven",
        str(inputs),
        str(output),
        str(cost_s),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def stages(running: Any) -> list[str]:
    """What a process prints until it ends."""
    return [line.strip() for line in running.stdout]


@pytest.mark.parametrize(
    ("num_kills", "cost_s"),
    [(2, 0.01), pytest.param(20, 0.05, marks=SLOW)],
)
def test_kills_at_random_moments(
    inputs: Path, tmp_path: Path, num_kills: int, cost_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, found = random.Random(0), Counter[str]()
    truth = tmp_path / "undisturbed"
    truth.mkdir()
    with process(inputs, truth / "out.mp4", cost_s) as running:
        steps = Counter(stages(running))
    assert steps[OVER] == 1
    assert all(steps[stage] > 10 for stage in STAGES)
    for number in range(num_kills):
        stage = STAGES[number % 2]
        folder = tmp_path / f"killed {number}"
        folder.mkdir()
        with process(inputs, folder / "out.mp4", cost_s) as running:
            last = chance.randrange(1, steps[stage])
            for _ in range(last):
                while running.stdout.readline().strip() != stage:
                    pass
            time.sleep(chance.uniform(0, 2 * cost_s))
            running.kill()
            found["too late"] += OVER in stages(running)
        found[f"killed in {stage}"] += 1
        found["keypoints kept"] += bool(list(folder.glob(f".*/{KEYPOINTS}")))
        with process(inputs, folder / "out.mp4", cost_s) as running:
            again = Counter(stages(running))
        assert again[OVER] == 1
        found["extracted again"] += again["extract"] > 0
        assert result(folder) == result(truth), number
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    # Keypoints that were there are used; before, the video is read from its beginning.
    assert found["extracted again"] == num_kills - found["keypoints kept"]


def main(inputs: str, output: str, cost_s: str) -> None:
    folder = Path(inputs)
    driving = Driving(models=folder / "networks" / "bundle")
    shot = example(folder, Path(output), steps=4, driving=driving)
    with open_animator(shot.bundle, float(cost_s)) as animator:
        make(
            replace(shot, pose=folder / "dance.mp4"),
            animator,
            progress=lambda progress: print(progress.stage, flush=True),
        )
    print(OVER, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
