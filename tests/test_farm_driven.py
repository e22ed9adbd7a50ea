"""A farm whose shots are driven by a video and by keypoints."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from animate_rt import write_keypoints
from animate_rt.runtime.farm.farm import Farm
from animate_rt.runtime.farm.worker import Worker
from animate_rt.runtime.shots.making import make
from animate_rt.runtime.shots.output import Output
from animate_rt.tests import fixed_cost  # not relative: workers import it, too

from . import ray_cluster
from .job_lists import job, shots
from .people import person
from .ray_cluster import run
from .square_networks import picture
from .square_networks import pose_bundle as squares
from .test_driving_videos import video
from .test_farm_deaths import Killer, results

if not find_spec("ray"):
    pytest.skip("needs the extra farm", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

collected, shared_ray = ray_cluster.collected, ray_cluster.shared_ray
ray, inputs = ray_cluster.ray, ray_cluster.inputs


@pytest.mark.usefixtures("ray")
def test_driven_shots_are_made_by_workers_with_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    """Also when a worker runs out of memory after it has extracted the poses."""
    video(inputs / "dance.mp4", [picture((100 + 6 * i, 200, 24)) for i in range(10)])
    write_keypoints(inputs / "walk.npz", person("walk", heading=90, frames=10, speed=40))
    models = squares(tmp_path)
    driven = {"pose": None, "driving": "dance.mp4", "align": "none", "models": str(models)}
    made = shots(
        inputs,
        tmp_path / "out",
        [
            job("video", **driven),
            job("tired", **driven, seed=fixed_cost.TIRED_SEED),
            job("keypoints", pose=None, keypoints="walk.npz", align="none"),
        ],
    )
    report = run(made, partial(fixed_cost.open_troubled_animator, folder=tmp_path), num_workers=2, tries=2)
    assert report.states == {"done": 3}
    assert {shot.name: shot.attempts for shot in report.shots} == {"video": 1, "tired": 2, "keypoints": 1}
    for shot in made:
        alone = replace(shot, output=Output.at(str(tmp_path / f"{shot.name}.mp4")), contact_sheet=None)
        with fixed_cost.open_animator(shot.bundle) as animator:
            assert make(alone, animator).num_frames == 10
        assert alone.output.path.read_bytes() == shot.output.path.read_bytes()


@pytest.mark.usefixtures("ray")
def test_a_worker_that_is_killed_changes_no_byte(inputs: Path, tmp_path: Path) -> None:
    """One job list with a video and a folder of keypoints, made by two workers of which one is killed."""
    video(inputs / "run.mp4", [picture((100 + 6 * i, 200, 24)) for i in range(16)])
    write_keypoints(inputs / "steps", person("walk", heading=90, frames=16, speed=40))
    models = squares(tmp_path)
    given = {"pose": None, "align": "none", "steps": 8}
    jobs = [
        job("video", driving="run.mp4", models=str(models), **given),
        job("keypoints", keypoints="steps", **given),
    ]
    undisturbed = Worker(fixed_cost.open_animator)  # in this process
    for shot in shots(inputs, tmp_path / "undisturbed", jobs):
        assert not undisturbed.make(shot).error
    opened = partial(fixed_cost.open_animator, cost_s=0.15)
    farm = Farm(shots(inputs, tmp_path / "killed", jobs), open_animator=opened, num_workers=2)
    with Killer(farm, every_s=2.0, most=1) as killer:
        report = farm.run()
    assert (killer.kills, report.document()["worker_deaths"]) == (1, 1)
    assert report.states == {"done": 2}
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")
