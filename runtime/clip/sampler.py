"""The DDIM solver: each step of a schedule is reduced to two factors (SPEC.md 4.3).

    latents' = step.latents * latents + step.prediction * prediction

The factors are computed in float64 on the host. The public code computes six products per step instead, and
rounds after every operation.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...engines.model import NoiseConfig, Schedule
from ...errors import ConfigError


class Step(NamedTuple):
    """One denoising step: the timestep given to the UNet, and the factors of the update."""

    timestep: int
    latents: float
    prediction: float
    earlier: tuple[float, ...] = ()  # of the clean latents that earlier steps estimated, the last one first
    clean: tuple[float, float] | None = None  # of latents and prediction, if a later step needs the estimate


def ddim(noise: NoiseConfig, schedule: Schedule) -> list[Step]:
    """Return the steps of a schedule (eta 0, no clipping) for epsilon or v-prediction.

    Given timesteps must descend to at least 0. Raises ConfigError if the weights have no such timestep.
    """
    alpha_bar = [float(value) for value in alphas_cumprod(noise)]
    final = 1.0 if noise.set_alpha_to_one else alpha_bar[0]
    if isinstance(schedule, int):
        spaced = timesteps(noise, schedule)
        # As in the public code the stride is an integer, so the previous timestep may not be in the list.
        stride = noise.num_train_timesteps // schedule
        previous = [alpha_bar[t - stride] if t >= stride else final for t in spaced]
    else:
        spaced = given_timesteps(noise, schedule)
        previous = [*(alpha_bar[t] for t in spaced[1:]), final]
    factors = {"epsilon": from_epsilon, "v_prediction": from_velocity}[noise.prediction_type]
    return [Step(t, *factors(alpha_bar[t], alpha)) for t, alpha in zip(spaced, previous, strict=True)]


def from_velocity(alpha: float, previous: float) -> tuple[float, float]:
    """Return the factors of latents and prediction, from cumulative alphas of this and the previous timestep.

    As in diffusers, the previous timestep is the one that the step leads to.
    """
    signal, sigma = sqrt(alpha), sqrt(1 - alpha)
    previous_signal, previous_sigma = sqrt(previous), sqrt(1 - previous)
    return (
        previous_signal * signal + previous_sigma * sigma,
        previous_sigma * signal - previous_signal * sigma,
    )


def from_epsilon(alpha: float, previous: float) -> tuple[float, float]:
    ratio = sqrt(previous / alpha)
    return ratio, sqrt(1 - previous) - ratio * sqrt(1 - alpha)


def timesteps(noise: NoiseConfig, count: int) -> list[int]:
    """Return descending timesteps, spaced and rounded as in diffusers. Raises ConfigError."""
    total = noise.num_train_timesteps
    if not 1 <= count <= total:
        raise ConfigError(f"steps: expected 1 to {total}, found {count}")
    if noise.timestep_spacing == "trailing":
        spaced = np.round(np.arange(total, 0, -total / count))[:count].astype(int) - 1
    else:
        spaced = np.arange(count)[::-1] * (total // count) + noise.steps_offset
    if spaced[0] >= total:
        raise ConfigError(
            f"steps: expected at most {total - noise.steps_offset} with leading spacing and a steps_offset "
            f"of {noise.steps_offset}, found {count}"
        )
    return [int(t) for t in spaced]


def given_timesteps(noise: NoiseConfig, given: tuple[int, ...]) -> list[int]:
    """Return timesteps as they are given, as few-step weights need. Raises ConfigError if out of range."""
    total = noise.num_train_timesteps
    if given[0] >= total:
        raise ConfigError(f"steps: expected timesteps of at most {total - 1}, found {given[0]}")
    return list(given)


def alphas_cumprod(noise: NoiseConfig) -> NDArray[Any]:
    """Return the cumulative alpha (squared signal level) of each training timestep, float64."""
    total = noise.num_train_timesteps
    if noise.beta_schedule == "scaled_linear":
        betas = np.linspace(noise.beta_start**0.5, noise.beta_end**0.5, total) ** 2
    else:
        betas = np.linspace(noise.beta_start, noise.beta_end, total)
    alpha_bar = np.cumprod(1 - betas)
    if noise.rescale_betas_zero_snr:
        signal = np.sqrt(alpha_bar)
        # The last value is exactly 0: the first step takes the latents as pure noise.
        alpha_bar = ((signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))) ** 2
    return alpha_bar
