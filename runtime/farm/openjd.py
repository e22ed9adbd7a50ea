"""A job list as a template of Open Job Description: one task per shot, for farms that have their manager.

The template names `animate-rt shot`, which makes one shot of a job list; so the list, its files and the
command have to be where the tasks run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ...engines.bundle import MANIFEST, read_manifest
from ...errors import ConfigError
from ..shots.shot import Shot

MAX_SHOTS = 1024  # values of a task parameter that a template may have
NOTIFY_S = 60  # between SIGTERM and SIGKILL: a shot ends at its next operation on the device

TEMPLATE = """\
specificationVersion: jobtemplate-2023-09
name: {name}
parameterDefinitions:
  - name: Jobs
    type: PATH
    objectType: FILE
    dataFlow: IN
    default: {jobs}
  - name: Output
    type: PATH
    objectType: DIRECTORY
    dataFlow: OUT
    default: {output}
steps:
  - name: Animate{requirements}
    parameterSpace:
      taskParameterDefinitions:
        - name: Shot
          type: STRING
          range:
{shots}
    script:
      actions:
        onRun:
          command: animate-rt
          args:
            - shot
            - "{{{{Param.Jobs}}}}"
            - "{{{{Task.Param.Shot}}}}"
            - --output
            - "{{{{Param.Output}}}}"
            - --progress
            - openjd
          cancelation:
            mode: NOTIFY_THEN_TERMINATE
            notifyPeriodInSeconds: {notify_s}
"""

GPU = """
    hostRequirements:
      amounts:
        - name: amount.worker.gpu
          min: 1"""


def template(jobs: Path, output: Path, shots: Sequence[Shot]) -> str:
    """YAML. Paths are relative to the folder of the template, which is taken to be the current one; whoever
    runs it may give others."""
    if len(shots) > MAX_SHOTS:
        raise ConfigError(f"openjd: expected up to {MAX_SHOTS} shots, found {len(shots)}; split the list")
    bundles = {shot.bundle for shot in shots}
    on_gpu = any(read_manifest(bundle / MANIFEST)["backend"] == "tensorrt" for bundle in bundles)
    return TEMPLATE.format(
        name=json.dumps(f"animate-rt {jobs.stem}"),
        jobs=json.dumps(os.path.relpath(jobs)),  # a string of JSON is one of YAML
        output=json.dumps(os.path.relpath(output)),
        requirements=GPU if on_gpu else "",
        shots="\n".join(f"            - {json.dumps(shot.name)}" for shot in shots),
        notify_s=NOTIFY_S,
    )
