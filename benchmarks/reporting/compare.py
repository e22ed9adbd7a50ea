"""Whether one result is slower than another, beyond chance."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import NamedTuple

from ...errors import InputError
from ...runtime.clip.options import ClipOptions
from .result import JSON, OURS, WHOLE, Result
from .samples import Ratio, ratio_of_medians


class Change(NamedTuple):
    """The change of one series of samples; a ratio above 1 is slower."""

    name: str
    ratio: Ratio
    num_samples: tuple[int, int]
    regressed: bool

    def as_json(self) -> JSON:
        return {**self._asdict(), "ratio": self.ratio._asdict()}


def compare(before: Result, after: Result, threshold: float) -> list[Change]:
    """Compare every series that both results have. A series of ours has regressed if its median grew by more
    than `threshold`, a fraction, and the ratio's confidence interval is above 1. Raises InputError if the
    results have no series in common, or are of different benchmarks or workloads."""
    if before.kind != after.kind or workload_of(before) != workload_of(after):
        raise InputError(
            f"expected two results of the same benchmark and workload, found {before.kind} {before.workload} "
            f"and {after.kind} {after.workload}"
        )
    names = [name for name in before.samples if before.samples[name] and after.samples.get(name)]
    if not names:
        raise InputError("nothing to compare: expected samples of the same name in both, found none")
    changes = []
    for name in names:
        old, new = before.samples[name], after.samples[name]
        ratio = ratio_of_medians(new, old)
        regressed = is_ours(before.kind, name) and ratio.ratio > 1 + threshold and ratio.low > 1
        changes.append(Change(name, ratio, (len(old), len(new)), regressed))
    return changes


def workload_of(result: Result) -> JSON:
    """The workload, with the default of each clip option that is newer than the result."""
    defaults: JSON = json.loads(json.dumps(asdict(ClipOptions())))
    return defaults | result.workload


def is_ours(kind: str, series: str) -> bool:
    """Whether a series measures the whole product: not another peer, nor the product with something off."""
    match kind:
        case "peers":
            return series.startswith(OURS)
        case "ablate":
            return series.endswith(WHOLE)
        case _:
            return True
