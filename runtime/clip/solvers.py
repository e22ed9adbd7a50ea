"""The solvers by name: DDIM, and two multistep ones, whose steps are of second order.

A multistep solver also uses the clean latents that earlier steps have estimated. Each step is reduced to
factors, which are computed in float64 on the host:

    clean    = step.clean[0] * latents + step.clean[1] * prediction
    latents' = step.latents * latents + step.prediction * prediction + step.earlier[0] * the last clean
               + step.earlier[1] * the one before

DPM-Solver++ (2M, midpoint) extrapolates linearly from this estimate and the last one (arXiv 2211.01095).
UniPC (order 2, B2) takes the same step, and begins the next one by correcting its result with the new
estimate (arXiv 2302.04867). The correction is the difference from latents that are still there, so it adds
one more estimate and no other state. Both are those of diffusers 0.42.1 in its default settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, inf, log, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...engines.model import NoiseConfig, Schedule, Solver
from ...errors import ConfigError
from .sampler import Step, alphas_cumprod, ddim, given_timesteps, timesteps

# What diffusers puts in place of a cumulative alpha of zero for these solvers. At zero the first step would
# begin at a log SNR of minus infinity.
LEAST_ALPHA = 2.0**-24

Form = NDArray[Any]  # factors of latents, prediction, last and last but one estimate


class Level(NamedTuple):
    """The noise level at one end of a step."""

    signal: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """Half the logarithm of the signal-to-noise ratio, called lambda in both papers."""
        return log(self.signal / self.sigma) if self.sigma else inf


CLEAN = Level(1.0, 0.0)
LATENTS, PREDICTION, LAST, BEFORE_LAST = np.eye(4)


def dpm_solver(noise: NoiseConfig, schedule: Schedule) -> list[Step]:
    """Return the steps of DPM-Solver++ (2M). Raises ConfigError as `ddim` does."""
    return multistep(noise, schedule, corrected=False)


def unipc(noise: NoiseConfig, schedule: Schedule) -> list[Step]:
    """Return the steps of UniPC. Raises ConfigError as `ddim` does."""
    return multistep(noise, schedule, corrected=True)


def multistep(noise: NoiseConfig, schedule: Schedule, *, corrected: bool) -> list[Step]:
    """Return the steps from the first timestep to clean latents. The first and the last step are DDIM's."""
    alpha_bar = alphas_cumprod(noise)
    if noise.rescale_betas_zero_snr:
        alpha_bar[-1] = LEAST_ALPHA
    if isinstance(schedule, int):
        spaced = spaced_timesteps(noise, schedule)
    else:
        spaced = given_timesteps(noise, schedule)
    levels = [Level(sqrt(alpha_bar[t]), sqrt(1 - alpha_bar[t])) for t in spaced]
    forms: list[tuple[Form, Form]] = []
    for i, (level, following) in enumerate(pairwise([*levels, CLEAN])):
        clean = clean_form(noise, level)
        latents = LATENTS
        if corrected and i > 0:
            latents = LATENTS + correction(levels[max(i - 2, 0) : i + 1], clean)
        before = levels[i - 1] if i > 0 and following is not CLEAN else None
        forms.append((prediction_step(before, level, following, latents, clean), clean))
    return [
        Step(
            t,
            float(next_latents[0]),
            float(next_latents[1]),
            earlier=tuple(map(float, np.trim_zeros(next_latents[2:], "b"))),
            clean=(float(clean[0]), float(clean[1])) if is_read(forms[i + 1 : i + 3]) else None,
        )
        for i, (t, (next_latents, clean)) in enumerate(zip(spaced, forms, strict=True))
    ]


def clean_form(noise: NoiseConfig, level: Level) -> Form:
    """Return the estimate of the clean latents."""
    if noise.prediction_type == "v_prediction":
        return level.signal * LATENTS - level.sigma * PREDICTION
    return (LATENTS - level.sigma * PREDICTION) / level.signal


def prediction_step(before: Level | None, level: Level, following: Level, latents: Form, clean: Form) -> Form:
    """Return the latents at the following level: of second order if the level before is given."""
    h = following.log_snr - level.log_snr
    slope = 0.0 * clean
    if before is not None:
        slope = 0.5 * (LAST - clean) / ((before.log_snr - level.log_snr) / h)
    return following.sigma / level.sigma * latents - following.signal * expm1(-h) * (clean + slope)


def correction(levels: Sequence[Level], clean: Form) -> Form:
    """Return what UniPC adds to the latents, which the last step predicted without this estimate.

    `levels` are those of up to two steps before, and this one.
    """
    *before, last, level = levels
    h = level.log_snr - last.log_snr
    scale = level.signal * expm1(-h)
    if not before:  # the last step was of first order
        return -scale * 0.5 * (clean - LAST)
    # The two weights that make the corrector exact for polynomials of degree 2. The prediction used 0.5, 0.
    ratio = (before[0].log_snr - last.log_snr) / h
    phi_2 = expm1(-h) / -h - 1
    phi_3 = phi_2 / -h - 0.5
    moments = phi_2 / expm1(-h), 2 * phi_3 / expm1(-h)
    earlier = (moments[0] - moments[1]) / (1 - ratio)
    change = (earlier - 0.5) * (BEFORE_LAST - LAST) / ratio + (moments[0] - earlier) * (clean - LAST)
    return -scale * change


def is_read(later: Sequence[tuple[Form, Form]]) -> bool:
    """Return whether one of the next two steps uses the estimate of this one."""
    return any(next_latents[2 + age] for age, (next_latents, _) in enumerate(later))


def spaced_timesteps(noise: NoiseConfig, count: int) -> list[int]:
    """Return descending timesteps as diffusers spaces them for these solvers. Raises ConfigError.

    Leading spacing leaves timestep 0 to the end of the last step, so it is wider than DDIM's.
    """
    if noise.timestep_spacing == "trailing":
        return timesteps(noise, count)
    total, most = noise.num_train_timesteps, noise.num_train_timesteps - noise.steps_offset - 1
    spacing = total // (count + 1) if count >= 1 else 0
    if not spacing or count * spacing + noise.steps_offset >= total:
        raise ConfigError(f"steps: expected 1 to {most} with leading spacing and this solver, found {count}")
    return [i * spacing + noise.steps_offset for i in range(count, 0, -1)]


SOLVERS: dict[Solver, Callable[[NoiseConfig, Schedule], list[Step]]] = {
    "ddim": ddim,
    "dpm++2m": dpm_solver,
    "unipc": unipc,
}


def num_estimates(steps: Sequence[Step], taken: int) -> int:
    """Return how many estimates of earlier steps are kept after so many steps."""
    most = max(len(step.earlier) for step in steps)
    return min(most, sum(step.clean is not None for step in steps[:taken]))
