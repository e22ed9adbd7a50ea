"""Job lists, the shots they describe, and the files their lines name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from animate_rt.runtime.shots.job_list import read_jobs
from animate_rt.runtime.shots.shot import Shot
from animate_rt.tests import fixed_cost  # absolute, because workers import it too

NUM_POSES = 8


def write_job_inputs(folder: Path) -> Path:
    """Write bundle/, three references and pose/ with 8 pictures."""
    return fixed_cost.write_inputs(folder, NUM_POSES, [f"reference{i}.png" for i in range(3)])


def job(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "bundle": "bundle",
        "reference": "reference0.png",
        "pose": "pose",
        "steps": 4,
    } | fields


def shots(inputs: Path, output: Path, jobs: list[dict[str, Any]]) -> list[Shot]:
    output.mkdir(exist_ok=True)
    path = inputs / f"{output.name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in jobs))
    found, errors = read_jobs(path, output)
    assert not errors
    return found
