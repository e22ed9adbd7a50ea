"""DDIM without a device: each step of a schedule is two scalars (SPEC.md 4.3).

    latents' = step.latents * latents + step.prediction * prediction

Everything is float64 on the host; what was two roundings of six products in the public code is one each.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...engines.model import NoiseConfig, Schedule
from ...errors import ConfigError


class Step(NamedTuple):
    """One denoising step: the timestep the UNet is told, and the update's factors."""

    timestep: int
    latents: float
    prediction: float


def ddim(noise: NoiseConfig, schedule: Schedule) -> list[Step]:
    """The steps of a schedule (eta 0, no clipping) for epsilon or v-prediction; raises ConfigError."""
    alpha_bar = [float(value) for value in alphas_cumprod(noise)]
    final = 1.0 if noise.set_alpha_to_one else alpha_bar[0]
    if isinstance(schedule, int):
        spaced = timesteps(noise, schedule)
        # The public stride is an integer, so the timestep before need not be the next one of the list.
        stride = noise.num_train_timesteps // schedule
        before = [alpha_bar[t - stride] if t >= stride else final for t in spaced]
    else:
        spaced = given_timesteps(noise, schedule)
        before = [*(alpha_bar[t] for t in spaced[1:]), final]
    factors = {"epsilon": from_epsilon, "v_prediction": from_velocity}[noise.prediction_type]
    return [Step(t, *factors(alpha_bar[t], alpha)) for t, alpha in zip(spaced, before, strict=True)]


def num_steps(schedule: Schedule) -> int:
    return schedule if isinstance(schedule, int) else len(schedule)


def from_velocity(now: float, before: float) -> tuple[float, float]:
    """Factors of latents and prediction for cumulative alphas of this and the preceding timestep."""
    signal, sigma = sqrt(now), sqrt(1 - now)
    next_signal, next_sigma = sqrt(before), sqrt(1 - before)
    return next_signal * signal + next_sigma * sigma, next_sigma * signal - next_signal * sigma


def from_epsilon(now: float, before: float) -> tuple[float, float]:
    ratio = sqrt(before / now)
    return ratio, sqrt(1 - before) - ratio * sqrt(1 - now)


def timesteps(noise: NoiseConfig, count: int) -> list[int]:
    """Descending timesteps, spaced as diffusers does it, rounding included."""
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
    """The timesteps that few-step weights were distilled for, if they can be stepped through."""
    total = noise.num_train_timesteps
    whole = all(type(t) is int and 0 <= t < total for t in given)
    if not (given and whole and all(a > b for a, b in pairwise(given))):
        raise ConfigError(
            f"steps: expected falling timesteps from at most {total - 1} to at least 0, "
            f"found {', '.join(map(str, given)) or 'none'}"
        )
    return list(given)


def alphas_cumprod(noise: NoiseConfig) -> NDArray[Any]:
    """Share of signal (squared) left at each training timestep, float64."""
    total = noise.num_train_timesteps
    if noise.beta_schedule == "scaled_linear":
        betas = np.linspace(noise.beta_start**0.5, noise.beta_end**0.5, total) ** 2
    else:
        betas = np.linspace(noise.beta_start, noise.beta_end, total)
    alpha_bar = np.cumprod(1 - betas)
    if noise.rescale_betas_zero_snr:
        signal = np.sqrt(alpha_bar)
        # Exactly 0 at the end: the first step then takes the latents as pure noise.
        alpha_bar = ((signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))) ** 2
    return alpha_bar
