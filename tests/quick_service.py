"""Services whose bundle has no weights, and whose engines only wait, so that tests of them are quick."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from animate_rt import Animator, ClipRequest, Job, Service
from animate_rt.engines.bundle import open_bundle

from .fixed_cost import WINDOW, FixedCostEngine, write_inputs

LONG = 1000  # steps of a clip that does not end before it is cancelled


class Quick(NamedTuple):
    """Inputs of clips, and a folder for the spool."""

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def service(self, **options: Any) -> Service:
        service = Service(**{"bundles": self.bundle, "spool": self.spool} | options)
        assert service.ready.wait(60)
        return service

    def request(self, **keys: Any) -> ClipRequest:
        """A clip of one window in one step."""
        given = {"reference": self.folder / "reference.png", "pose": self.folder / "pose", "steps": 1}
        return ClipRequest(**given | keys)


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, run_s: float = 0.01) -> Quick:
    """Write the inputs. A run of the UNet takes `run_s` seconds and no CPU."""

    def load(path: Path) -> Animator:
        return Animator(open_bundle(path), load=partial(FixedCostEngine, cost_s=run_s))

    monkeypatch.setattr(Animator, "load", load)
    return Quick(write_inputs(folder, WINDOW))


def wait_for_stage(job: Job, stage: str = "denoise") -> None:
    next(status for status in job.events() if status.stage == stage)
