"""Feature caching: between whole runs of the denoising UNet, only its last layer runs.

The last layer reads the latents and the deep features, which change little from one step to the next. A whole
run leaves them to the steps after it. These extrapolate them linearly from the last two whole runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...engines.contract import CACHING, DENOISING_UNET, SHALLOW, TensorSpec
from ...engines.manifest import Manifest
from ...errors import ConfigError

FEWEST_STEPS = 15  # with fewer, neighbouring steps are too far apart
NUM_KEPT = 2  # whole runs whose features a window keeps


class CachedStep(NamedTuple):
    """One step of a clip with feature caching."""

    graph: str
    # Of the features: last + extrapolation * (last - the ones before). None in a whole run.
    extrapolation: float | None
    kept: TensorSpec | None  # the features that a whole run leaves, if a later step reads them


def cached_steps(graphs: Sequence[str], interval: int, manifest: Manifest) -> list[CachedStep]:
    """Return the steps with one whole run in `interval` steps, given each step's variant of the UNet.

    The first guided step after one without guidance is a whole run, as there are no unconditional features
    before it. Raises ConfigError for fewer steps than FEWEST_STEPS, and for a bundle without the graphs.
    """
    if len(graphs) < FEWEST_STEPS:
        raise ConfigError(
            f"cache_interval: expected 1 with fewer than {FEWEST_STEPS} steps, as with few-step weights, "
            f"found {interval} with {len(graphs)} steps"
        )
    if not manifest.feature_cache:
        raise ConfigError(
            f"cache_interval: expected 1 or a bundle that was built for feature caching, found {interval}; "
            f"build it again: {manifest.rebuild_command} --feature-cache"
        )
    whole: list[int] = []
    for step, graph in enumerate(graphs):
        lacks_features = graph == DENOISING_UNET and whole and graphs[whole[-1]] != DENOISING_UNET
        if not whole or step - whole[-1] == interval or lacks_features:
            whole.append(step)
    kept = [step for step in whole if step + 1 < len(graphs) and step + 1 not in whole]
    steps = []
    for step, graph in enumerate(graphs):
        if step in whole:
            (features,) = (
                spec for spec in manifest.graphs[CACHING[graph]].outputs if spec.name == "deep_features"
            )
            steps.append(CachedStep(CACHING[graph], None, features if step in kept else None))
        else:
            last, *before = [each for each in reversed(kept) if each < step][:NUM_KEPT]
            known = bool(before) and (graph != DENOISING_UNET or graphs[before[0]] == DENOISING_UNET)
            share = (step - last) / (last - before[0]) if known else 0.0
            steps.append(CachedStep(SHALLOW[graph], share, None))
    return steps


def kept_features(steps: Sequence[CachedStep], taken: int) -> list[TensorSpec]:
    """Return what a window keeps after so many steps, the last first."""
    kept = [step.kept for step in steps[:taken] if step.kept is not None]
    return kept[::-1][:NUM_KEPT]
