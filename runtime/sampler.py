"""DDIM without a device: each step of a schedule is two scalars (SPEC.md 4.3).

    latents' = step.latents * latents + step.prediction * prediction

Everything is float64 on the host; what was two roundings of six products in the public code is one each.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engines.model import NoiseConfig
from ..errors import ConfigError


class Step(NamedTuple):
    """One denoising step: the timestep the UNet is told, and the update's factors."""

    timestep: int
    latents: float
    prediction: float


def ddim(noise: NoiseConfig, num_steps: int) -> list[Step]:
    """The schedule of `num_steps` steps (eta 0, no clipping) for epsilon or v-prediction."""
    spaced = timesteps(noise, num_steps)
    alpha_bar = [float(value) for value in alphas_cumprod(noise)]
    stride = noise.num_train_timesteps // num_steps
    final = 1.0 if noise.set_alpha_to_one else alpha_bar[0]
    factors = {"epsilon": from_epsilon, "v_prediction": from_velocity}[noise.prediction_type]
    # The public stride is an integer, so the timestep before need not be the next one of the list.
    before = [alpha_bar[t - stride] if t >= stride else final for t in spaced]
    return [Step(t, *factors(alpha_bar[t], alpha)) for t, alpha in zip(spaced, before, strict=True)]


def from_velocity(now: float, before: float) -> tuple[float, float]:
    """Factors of latents and prediction for cumulative alphas of this and the preceding timestep."""
    signal, sigma = sqrt(now), sqrt(1 - now)
    next_signal, next_sigma = sqrt(before), sqrt(1 - before)
    return next_signal * signal + next_sigma * sigma, next_sigma * signal - next_signal * sigma


def from_epsilon(now: float, before: float) -> tuple[float, float]:
    ratio = sqrt(before / now)
    return ratio, sqrt(1 - before) - ratio * sqrt(1 - now)


def timesteps(noise: NoiseConfig, num_steps: int) -> list[int]:
    """Descending timesteps, spaced as diffusers does it, rounding included."""
    total = noise.num_train_timesteps
    if not 1 <= num_steps <= total:
        raise ConfigError(f"steps: expected 1 to {total}, found {num_steps}")
    if noise.timestep_spacing == "trailing":
        spaced = np.round(np.arange(total, 0, -total / num_steps))[:num_steps].astype(int) - 1
    else:
        spaced = np.arange(num_steps)[::-1] * (total // num_steps) + noise.steps_offset
    if spaced[0] >= total:
        raise ConfigError(
            f"steps: expected at most {total - noise.steps_offset} with leading spacing and a steps_offset "
            f"of {noise.steps_offset}, found {num_steps}"
        )
    return [int(t) for t in spaced]


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
