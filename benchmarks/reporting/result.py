"""The result of a benchmark: one JSON document with a schema version.

`samples` are the raw measurements by name, in seconds and in the order they were made. Unknown values are
null; there is no NaN and no infinity.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...atomic import write_text
from ...engines.bundle import Bundle
from ...engines.manifest import WEIGHTS
from ...errors import InputError, InputMissing
from ..instruments import host

SCHEMA = "animate-rt/bench@1"
# Names of samples: of peers, ours begin with OURS; of an ablation, those with nothing off end in WHOLE.
OURS, WHOLE = "ours", "whole"

JSON = dict[str, Any]
Samples = dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one run of one benchmark."""

    kind: str
    workload: JSON
    results: JSON
    engines: list[JSON] = field(default_factory=list)
    samples: Samples = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    host: JSON = field(default_factory=host.describe)
    run: JSON = field(default_factory=lambda: this_run())
    schema: str = SCHEMA

    def write(self, path: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"{text}\n")

    def line(self) -> str:
        """The document without the samples, on one line."""
        document = dataclasses.asdict(self)
        del document["samples"]
        return json.dumps(document, allow_nan=False)


def read_result(path: Path) -> Result:
    """Raises InputMissing if there is no such file, InputError if it is not a result of this schema."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputMissing(f"{path}: expected a result of animate-rt bench, found no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a result of animate-rt bench, cannot read it: {error}") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise InputError(f"{path}: expected a result with schema {SCHEMA}, found {found}; measure again")
    try:
        return Result(**document)
    except TypeError as error:
        raise InputError(f"{path}: expected the fields of schema {SCHEMA}: {error}") from error


def this_run() -> JSON:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": host.commit(),
        # Absolute paths become names: they may be private, and would not help to repeat the run.
        "argv": [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]],
    }


def describe_engines(bundle: Bundle) -> list[JSON]:
    """Each graph of a bundle, with the SHA-256 of its plan, or of OpenVINO's graph and its weights."""
    manifest, files = bundle.manifest, bundle.manifest.files

    def hashes(graph: str) -> JSON:
        engine = files[manifest.engine(graph)].sha256
        if manifest.backend == "tensorrt":
            return {"plan": engine}
        return {"graph": engine, "weights.bin": files[WEIGHTS].sha256}

    about = {"backend": manifest.backend_version, "precision": manifest.precision}
    return [{"name": graph, **about, "sha256": hashes(graph)} for graph in manifest.graphs]
