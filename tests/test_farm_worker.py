"""A worker of a farm records the bundle that it has used, and its progress is never half of two states."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from animate_rt.engines.bundle import BundleCorrupt, open_bundle, seal
from animate_rt.engines.contract import DENOISING_UNET
from animate_rt.engines.manifest import Manifest
from animate_rt.runtime.animator import Animator
from animate_rt.runtime.clip.progress import Progress
from animate_rt.runtime.farm.worker import Attempt, ShotProgress, Worker
from animate_rt.runtime.shots.shot import Shot

from .arithmetic import array
from .fixed_cost import FixedCostContext, FixedCostEngine
from .job_lists import job, shots, write_job_inputs


class MarkedContext(FixedCostContext):
    """Engines whose results depend on the bundle, as those of weights do."""

    def run(self, bound):
        super().run(bound)
        if self.engine.graph.startswith(DENOISING_UNET):
            for spec in self.engine.contract.outputs:
                array(bound[spec.name])[...] *= self.engine.factor


class MarkedEngine(FixedCostEngine):
    def __init__(self, bundle, graph, device):
        super().__init__(bundle, graph, device)
        self.factor = np.float32(1 + int(bundle.digest[:4], 16) / 65536)

    def context(self, _workspace):
        return MarkedContext(self)


def open_marked(bundle: Path) -> Animator:
    return Animator(open_bundle(bundle), load=MarkedEngine)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return write_job_inputs(tmp_path / "inputs")


def rebuild(bundle: Path, weights: str) -> None:
    """Put another bundle of the same size in the place of this one, as `animate-rt build` does."""
    manifest: Manifest = open_bundle(bundle).manifest
    new = bundle.with_name("new")
    shutil.copytree(bundle, new)
    (new / "manifest.json").unlink()
    seal(new, dataclasses.replace(manifest, weights={"unet.pth": weights}))
    shutil.rmtree(bundle)
    new.rename(bundle)


def frames(made: list[Shot], worker: Worker) -> list[bytes]:
    for shot in made:
        result = worker.make(shot)
        assert not result.error, result.error
    return [shot.output.path.read_bytes() for shot in made]


def test_a_bundle_that_was_built_anew_is_loaded_anew(inputs: Path, tmp_path: Path) -> None:
    jobs = [job("first", seed=1), job("second", seed=2), job("third", seed=3)]
    made = shots(inputs, tmp_path / "out", jobs)
    worker = Worker(open_marked)
    old = frames(made[:2], worker)
    animator = worker.animator
    rebuild(inputs / "bundle", "b" * 64)
    new = frames(made, worker)
    assert worker.animator is not animator
    assert worker.animator.bundle.digest == open_bundle(inputs / "bundle").digest
    right = frames(shots(inputs, tmp_path / "right", jobs), Worker(open_marked))
    assert new == right
    assert old[0] != new[0]
    assert old[1] != new[1]
    assert all(Worker(open_marked).make(shot).already for shot in made)
    loaded = worker.animator
    frames(shots(inputs, tmp_path / "again", jobs), worker)
    assert worker.animator is loaded  # it was not built again


@pytest.mark.parametrize("moment", ["while the shot is made", "while it is missing"])
def test_a_bundle_that_is_replaced_under_a_shot_is_tried_again(
    inputs: Path, tmp_path: Path, moment: str
) -> None:
    """An engine that is loaded later finds other files than the manifest says: no fault of the shot."""
    first, second = shots(inputs, tmp_path / "out", [job("first"), job("second", seed=5)])
    worker = Worker(open_marked)
    assert not worker.make(first).error
    if moment == "while it is missing":
        (inputs / "bundle").rename(inputs / "aside")
        result = worker.make(second)
        (inputs / "aside").rename(inputs / "bundle")
    else:

        def animate(*_arguments, **_options):
            rebuild(inputs / "bundle", "c" * 64)
            raise BundleCorrupt("graphs/weights.bin: expected other bytes")

        worker.animator.animate = animate
        result = worker.make(second)
        assert result.code == "bundle_corrupt"
    assert result.error
    assert result.retryable
    assert not worker.make(second).error
    if moment == "while it is missing":
        return
    worker.animator.animate = lambda *_arguments, **_options: (_ for _ in ()).throw(BundleCorrupt("broken"))
    (second.output.path).unlink()
    assert not worker.make(second).retryable  # the bundle is the one that was loaded: it is broken indeed


def test_progress_is_never_half_of_two_states() -> None:
    """A thread reads while another makes one shot after another: every answer is a state that there was."""
    steps = [Progress(stage, done, 8) for done in range(9) for stage in ("denoise", "decode")]
    worker, seen, over = Worker(), set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(worker.shot_progress("one"))

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=read)
    thread.start()
    states: set[ShotProgress] = set()
    turns = itertools.count()
    while (turn := next(turns)) < 100 or len(seen) < len(states):
        worker.attempt = Attempt(("one", "other")[turn % 2])
        for step in steps:
            worker.attempt.add(step)
            states.add(worker.attempt.progress)
    over.set()
    thread.join()
    sys.setswitchinterval(interval_s)
    assert len(states) == 17
    assert seen == states


def test_the_name_and_progress_of_an_attempt_are_assigned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next shot's name with the progress of the shot before would be recorded for good."""
    worker = Worker()
    worker.attempt.shot = "before"
    for done in (0, 4, 8):
        worker.attempt.add(Progress("denoise", done, 8))
        worker.attempt.add(Progress("decode", done, 8))
    assert worker.shot_progress("before") == ShotProgress(0.0, 1.0, 0, 8)
    assigned = []
    original = Worker.__setattr__
    monkeypatch.setattr(
        Worker, "__setattr__", lambda self, name, value: (assigned.append(name), original(self, name, value))
    )
    worker.make(Shot(name="next", bundle=Path("none"), reference=Path(), pose=Path(), output=None))
    assert assigned == ["attempt"]
    assert worker.shot_progress("next") == ShotProgress()
    assert worker.shot_progress("before") == ShotProgress()
