"""Turns a job list into an Open Job Description template with one task per shot, for a farm manager.

Each task runs `animate-rt shot`, which makes one shot of a job list. So the list, its files and the command
must be available on the hosts that run the tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...engines.bundle import MANIFEST, read_manifest
from ...errors import ConfigError
from ...text import escaped, one_line, quoted
from ..shots.shot import Shot

# Limits of the specification: values of one task parameter; characters of a value and of the template's name.
MAX_SHOTS, MAX_VALUE, MAX_NAME = 1024, 1024, 128
BRACES = re.compile(r"([{}])(?=\1)")  # {{...}} is an expression
SURROGATE = re.compile("[\ud800-\udfff]")  # stands for a byte of a path that is not UTF-8
NOTIFY_S = 60  # from SIGTERM to SIGKILL; a shot needs one run of the UNet to stop

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
    """Return the template as YAML.

    Its default paths are relative to the current directory, where the template is expected to be stored. They
    are parameters, which can be set when the template is run.
    """
    if len(shots) > MAX_SHOTS:
        raise ConfigError(f"openjd: expected up to {MAX_SHOTS} shots, found {len(shots)}; split the job list")
    bundles = {shot.bundle for shot in shots}
    on_gpu = any(read_manifest(bundle / MANIFEST)["backend"] == "tensorrt" for bundle in bundles)
    for shot in shots:
        if BRACES.search(shot.name):
            raise ConfigError(f"openjd: expected names without {{{{ and }}}}, found {quoted(shot.name)}")
    return TEMPLATE.format(
        name=value(one_line(BRACES.sub(r"\1 ", f"animate-rt {jobs.stem}"), MAX_NAME)),
        jobs=value(os.path.relpath(jobs)),
        output=value(os.path.relpath(output)),
        requirements=GPU if on_gpu else "",
        shots="\n".join(f"            - {value(shot.name)}" for shot in shots),
        notify_s=NOTIFY_S,
    )


def value(text: str) -> str:
    """The text in YAML. Raises ConfigError if a template cannot hold it."""
    if len(text) > MAX_VALUE or SURROGATE.search(text):
        raise ConfigError(
            f"openjd: expected names and paths in UTF-8 of up to {MAX_VALUE} characters, "
            f"found {quoted(text)}; rename it"
        )
    spelled = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped(spelled)}"'
