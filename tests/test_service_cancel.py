"""How soon a cancelled job of a service ends, counted in runs of the UNet."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter, sleep

import pytest
from animate_rt import Animator, ClipRequest, Service
from animate_rt.engines.bundle import open_bundle

from .fixed_cost import FixedCostEngine, write_inputs

RUN_S = 0.4  # much longer than writing the record of the end takes


def test_at_most_one_run_of_the_unet_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, animators = write_inputs(tmp_path, 12), []

    def load(path: Path) -> Animator:
        animators.append(Animator(open_bundle(path), load=partial(FixedCostEngine, cost_s=RUN_S)))
        return animators[-1]

    monkeypatch.setattr(Animator, "load", load)
    chance, seconds = Random(0), []
    with Service(inputs / "bundle", spool=tmp_path / "spool") as service:
        assert service.ready.wait(60)
        unet = animators[0].session.engine("denoising_unet")
        for _ in range(4):
            job = service.submit(
                ClipRequest(reference=inputs / "reference.png", pose=inputs / "pose", steps=300)
            )
            next(status for status in job.events() if status.stage == "denoise")
            sleep(chance.uniform(0, 2 * RUN_S))
            began, runs = perf_counter(), unet.runs
            job.cancel()
            assert job.wait(60).state == "cancelled"
            ended, more = perf_counter(), unet.runs - runs
            assert more <= 1
            seconds.append(ended - began)
            sleep(2 * RUN_S)
            assert unet.runs - runs <= 2, "of the tasks that were issued before, only one that began is done"
    with capsys.disabled():
        print(f"\ncancelled after at most {max(seconds) / RUN_S:.2f} runs of the UNet")
