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
    time_rows: Buffer  # (steps, sum of the resnets' widths)
    scalars: dict[str, Buffer]  # guidance_scale float32 (1,); num_frames int32 (1,), without padding


def prepare_conditions(
    session: Session, settings: ClipSettings, layout: Layout, reference: Reference, lease: Lease
) -> Conditions:
    """Compute a clip's conditions, in buffers of its lease."""
    scalars: dict[str, Array] = {
        "num_frames": np.array([len(layout.windows[next(iter(layout))])], np.int32),
        "guidance_scale": np.array([settings.guidance_scale], np.float32),
    }
    conditions = Conditions(reference, time_rows(session, settings.steps, lease), {})
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
