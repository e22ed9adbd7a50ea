"""Statistics of measurements, and of the ratio of two sets of measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
BATCH_VALUES = 1 << 18
CONFIDENCE = 0.95
# Least number of samples for each percentile: with fewer, it would be the slowest sample or close to it.
ENOUGH = {"p90": 10, "p95": 20, "p99": 100}


def summary(samples: Sequence[float]) -> dict[str, float | None]:
    """n, min, mean, median, percentiles, max and coefficient of variation (cv); None where n is too small."""
    mean = statistics.fmean(samples)
    deviation = statistics.stdev(samples) if len(samples) > 1 else None
    return {
        "n": len(samples),
        "min": min(samples),
        "mean": mean,
        "median": statistics.median(samples),
        **{
            name: float(np.percentile(samples, int(name[1:]))) if len(samples) >= enough else None
            for name, enough in ENOUGH.items()
        },
        "max": max(samples),
        "cv": deviation / mean if deviation is not None and mean else None,
    }


class Ratio(NamedTuple):
    """The ratio of two medians, with its confidence interval."""

    ratio: float
    low: float
    high: float


def ratio_of_medians(ours: Sequence[float], base: Sequence[float], seed: int = 0) -> Ratio:
    """median(ours) / median(base) with a bootstrap 95 % interval; the same samples give the same interval."""
    generator = np.random.default_rng(seed)
    ratios = resampled_medians(ours, generator) / resampled_medians(base, generator)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Ratio(statistics.median(ours) / statistics.median(base), float(low), float(high))


def resampled_medians(samples: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """Medians of RESAMPLES draws with replacement, drawn in batches that fit the CPU's cache."""
    values = np.asarray(samples, np.float64)
    batch = max(1, BATCH_VALUES // len(values))
    medians = []
    for begin in range(0, RESAMPLES, batch):
        count = min(batch, RESAMPLES - begin)
        drawn = generator.integers(0, len(values), (count, len(values)))
        medians.append(np.median(values[drawn], axis=1))
    return np.concatenate(medians)


def steady(samples: Sequence[float], last: int = 5, variation: float = 0.02) -> bool:
    """Whether the coefficient of variation of the `last` samples is below `variation`."""
    recent = samples[-last:]
    return len(recent) == last and statistics.stdev(recent) < variation * statistics.fmean(recent)
