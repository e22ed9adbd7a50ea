"""A clip's wall-clock time by stage, from the times each operation began and ended on its stream.

Stages overlap, so their own times add up to more than the wall clock. `attribute` divides each instant
equally among the stages that are running, or assigns it to "residual" if none is. The parts add up to the
wall clock, and the residual is the time that no stage accounts for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ...engines import contract
from ...engines.device import Event
from ...runtime.streams.operations import Operation
from ..reporting.result import JSON

REFERENCE, POSE, UNET, SAMPLER, DECODE, COPIES, ENCODE = STAGES = (
    "reference",
    "pose",
    "unet",
    "sampler",
    "decode",
    "copies",
    "encode",
)
RESIDUAL = "residual"
STAGE_OF = {
    contract.IMAGE_ENCODER: REFERENCE,
    contract.VAE_ENCODER: REFERENCE,
    contract.REFERENCE_NET: REFERENCE,
    contract.POSE_GUIDER: POSE,
    contract.TIME_EMBEDDING: SAMPLER,
    contract.DENOISING_UNET: UNET,
    contract.DENOISING_UNET_CONDITIONAL: UNET,
    "update": SAMPLER,
    contract.VAE_DECODER: DECODE,
    "gather": COPIES,
    "copy in": COPIES,
    "copy out": COPIES,
}
ENGINES = (REFERENCE, POSE, UNET, DECODE)
TOLERANCE = 0.02  # fraction of the wall clock that stages may leave out


class Span(NamedTuple):
    """When one operation ran on its stream; seconds on the host's clock."""

    name: str
    stage: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Log:
    """An observer that records when operations ran, without keeping their buffers."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, Event, Event]] = []

    def __call__(self, operation: Operation) -> None:
        if operation.began and operation.ended:
            self.operations.append((operation.name, operation.began, operation.ended))

    def take(self, offset: float) -> list[Span]:
        """Wait for the operations logged since the last call, and return their spans; `offset` is the host's
        clock when the device's was 0."""
        taken, self.operations = self.operations, []
        spans = []
        for name, began, ended in taken:
            ended.synchronize()  # time_s needs a finished event
            spans.append(Span(name, STAGE_OF[name], began.time_s + offset, ended.time_s + offset))
        return spans


def attribute(spans: Iterable[Span], began: float, ended: float) -> dict[str, float]:
    """Seconds of the wall clock by stage, and for "residual"; they add up to `ended` - `began`."""
    edges: list[tuple[float, int, str]] = []
    for span in spans:
        first, last = max(span.began, began), min(span.ended, ended)
        if last > first:
            edges += [(first, 1, span.stage), (last, -1, span.stage)]
    parts: defaultdict[str, float] = defaultdict(float)
    active: defaultdict[str, int] = defaultdict(int)
    now = began
    for time, change, stage in sorted(edges):
        divide(parts, active, time - now)
        now = time
        active[stage] += change
    divide(parts, active, ended - now)
    return {stage: parts[stage] for stage in (*STAGES, RESIDUAL)}


def divide(parts: defaultdict[str, float], active: defaultdict[str, int], seconds: float) -> None:
    """Add `seconds` to the parts of the active stages, equally, or to the residual if none is active."""
    stages = [stage for stage, count in active.items() if count] or [RESIDUAL]
    for stage in stages:
        parts[stage] += seconds / len(stages)


def breakdown(spans: list[Span], began: float, ended: float) -> JSON:
    """Seconds: `busy` is each stage's own time, `wall` its part of the wall clock, `sum` all parts but the
    residual, and `outside_engines` the time in which no engine ran."""
    wall = attribute(spans, began, ended)
    engines = attribute((span for span in spans if span.stage in ENGINES), began, ended)
    return {
        "busy": {stage: sum(span.seconds for span in spans if span.stage == stage) for stage in STAGES},
        "wall": wall,
        "wall_clock": ended - began,
        "sum": sum(wall[stage] for stage in STAGES),
        "outside_engines": engines[RESIDUAL],
    }


def residual_warning(breakdown: JSON) -> str | None:
    """A warning if the stages do not add up to the wall clock."""
    total, wall = breakdown["sum"], breakdown["wall_clock"]
    missing = 1 - total / wall
    if abs(missing) <= TOLERANCE:
        return None
    return (
        f"stages add up to {100 * total / wall:.1f} % of the wall clock, expected 100 % within "
        f"{100 * TOLERANCE:.0f} %: {1e3 * missing * wall:.1f} ms are in no stage"
    )
