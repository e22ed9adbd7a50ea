"""Conditions: what every task of a clip reads besides its frames, on the device."""

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
    time_rows: Buffer  # (steps, resnet widths)
    scalars: dict[str, Buffer]  # guidance_scale float32 (1,), num_frames int32 (1,)


def prepare_conditions(
    session: Session, settings: ClipSettings, layout: Layout, reference: Reference, lease: Lease
) -> Conditions:
    """Put the conditions of a clip on the device, in buffers of its lease."""
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
    """One row of the time embedding for each step."""
    timesteps = np.array([step.timestep for step in steps], np.float32)
    with session.prepare.staged("float32", timesteps) as staged, session.scheduler:
        embedding = session.bound(session.prepare, contract.TIME_EMBEDDING)
        (row,) = embedding.contract.outputs
        rows = lease.take(row.dtype, (len(steps), *row.shape[1:]))
        for i in range(len(steps)):
            embedding.run({"timestep": staged.rows(i, i + 1)}, {"time_row": rows.rows(i, i + 1)})
    return rows
