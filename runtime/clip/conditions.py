"""The conditions of a clip: device buffers that all its tasks read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...engines import contract
from ...engines.device import Array, Buffer
from ..streams.pool import Lease
from ..streams.session import Session
from .layout import Layout
from .options import ClipSettings
from .reference import Reference
from .sampler import Step


@dataclass(frozen=True, slots=True)
class Conditions:
    reference: Reference
    # With one row per step: time_row (steps, sum of the resnets' widths) and, with feature caching,
    # extrapolation float32 (steps,).
    tables: dict[str, Buffer]
    scalars: dict[str, Buffer]  # guidance_scale float32 (1,); num_frames int32 (1,), without padding

    def of_step(self, step: int) -> dict[str, Buffer]:
        """What the UNet reads in a step besides frames and reference, by the name of its input."""
        return {name: table.rows(step, step + 1) for name, table in self.tables.items()} | self.scalars


def prepare_conditions(
    session: Session, settings: ClipSettings, layout: Layout, reference: Reference, lease: Lease
) -> Conditions:
    """Compute a clip's conditions, in buffers of its lease."""
    scalars: dict[str, Array] = {
        "num_frames": np.array([len(layout.windows[next(iter(layout))])], np.int32),
        "guidance_scale": np.array([settings.guidance_scale], np.float32),
    }
    conditions = Conditions(reference, {"time_row": time_rows(session, settings.steps, lease)}, {})
    if settings.cached:
        extrapolations = np.array([step.extrapolation or 0 for step in settings.cached], np.float32)
        conditions.tables["extrapolation"] = lease.take("float32", extrapolations.shape)
        session.prepare.copy_in(conditions.tables["extrapolation"], extrapolations)
    for name, scalar in scalars.items():
        conditions.scalars[name] = lease.take("int32" if scalar.dtype == np.int32 else "float32", (1,))
        session.prepare.copy_in(conditions.scalars[name], scalar)
    return conditions


def time_rows(session: Session, steps: list[Step], lease: Lease) -> Buffer:
    """Compute the time embedding, one row per step."""
    timesteps = np.array([step.timestep for step in steps], np.float32)
    with session.prepare.staged("float32", timesteps) as staged, session.scheduler:
        embedding = session.bound(session.prepare, contract.TIME_EMBEDDING)
        (row,) = embedding.contract.outputs
        rows = lease.take(row.dtype, (len(steps), *row.shape[1:]))
        for i in range(len(steps)):
            embedding.run({"timestep": staged.rows(i, i + 1)}, {"time_row": rows.rows(i, i + 1)})
    return rows
