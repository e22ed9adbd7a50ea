"""The DDIM schedule: documented tables, and the two factors of a step against the formulas they combine."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
from animate_rt import ConfigError
from animate_rt.engines.model import NoiseConfig
from animate_rt.runtime.clip.sampler import alphas_cumprod, ddim, timesteps

V2 = NoiseConfig(
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    steps_offset=1,
)
V1 = NoiseConfig(beta_start=0.00085, beta_end=0.012, steps_offset=1)
SCALED = NoiseConfig(**{**{f: getattr(V2, f) for f in V2.__slots__}, "beta_schedule": "scaled_linear"})


@pytest.mark.parametrize(
    ("noise", "table"),
    [
        (V2, {0: 0.99914998, 39: 0.95649332, 299: 0.45155331, 599: 0.06436804, 899: 0.00103739, 999: 0}),
        (SCALED, {0: 0.99914986, 39: 0.96026397, 299: 0.56651568, 599: 0.12844765, 899: 0.00303307, 999: 0}),
        (V1, {999: 0.0015790}),
    ],
)
def test_cumulative_alphas(noise: NoiseConfig, table: dict[int, float]) -> None:
    found = alphas_cumprod(noise)
    for timestep, expected in table.items():
        assert found[timestep] == pytest.approx(expected, rel=5e-5, abs=0)


def test_zero_terminal_snr_is_exact() -> None:
    """A tiny positive value would give another first step (SPEC.md 9 number 8)."""
    assert alphas_cumprod(V2)[999] == 0
    first = ddim(V2, 25)[0]
    before = float(alphas_cumprod(V2)[959])
    assert first.latents == sqrt(1 - before)
    assert first.prediction == -sqrt(before)


@pytest.mark.parametrize(
    ("noise", "steps", "expected"),
    [
        (V2, 4, [999, 749, 499, 249]),
        (V2, 10, list(range(999, 0, -100))),
        (V2, 30, [999, 966, 932, 899, 866, 832]),
        (V2, 15, [999, 932, 866, 799]),
        (V1, 4, [751, 501, 251, 1]),
        (V2, 1000, [999, 998, 997]),
        (V2, 1, [999]),
    ],
)
def test_timesteps(noise: NoiseConfig, steps: int, expected: list[int]) -> None:
    found = timesteps(noise, steps)
    assert len(found) == steps
    assert found[: len(expected)] == expected


def test_recorded_timesteps(case: Any) -> None:
    assert timesteps(V2, case.steps) == case.io["timesteps"].tolist()


@pytest.mark.parametrize("steps", [1, 3, 15, 25, 30, 1000])
@pytest.mark.parametrize("noise", [V2, SCALED, NoiseConfig()])
def test_the_two_factors_of_a_step_equal_the_formulas(noise: NoiseConfig, steps: int) -> None:
    """Against x0 and epsilon of SPEC.md 4.3, computed one by one for one pair of numbers."""
    alpha_bar, stride = alphas_cumprod(noise), 1000 // steps
    x, prediction = 0.7, -1.3
    for step in ddim(noise, steps):
        now = float(alpha_bar[step.timestep])
        before = float(alpha_bar[step.timestep - stride]) if step.timestep >= stride else 1.0
        if noise.prediction_type == "v_prediction":
            x0 = sqrt(now) * x - sqrt(1 - now) * prediction
            epsilon = sqrt(now) * prediction + sqrt(1 - now) * x
        else:
            x0 = (x - sqrt(1 - now) * prediction) / sqrt(now)
            epsilon = prediction
        expected = sqrt(before) * x0 + sqrt(1 - before) * epsilon
        assert step.latents * x + step.prediction * prediction == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_numbers_of_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match="1 to 1000"):
        ddim(V2, steps)


@pytest.mark.parametrize("noise", [V2, V1])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_giving_the_timesteps_of_a_schedule_gives_that_schedule(noise: NoiseConfig, steps: int) -> None:
    """If the stride of the schedule is a whole number."""
    given = ddim(noise, tuple(timesteps(noise, steps)))
    assert [step.timestep for step in given] == timesteps(noise, steps)
    if noise is V2:
        assert given == ddim(noise, steps)


def test_a_step_ends_where_the_next_timestep_begins() -> None:
    first, last = ddim(V2, (999, 249))
    alpha_bar = alphas_cumprod(V2)
    assert first.latents == sqrt(1 - float(alpha_bar[249]))
    assert last.latents == sqrt(float(alpha_bar[249]))  # to the clean latents


def test_timesteps_that_the_weights_do_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected timesteps of at most 999, found 1000"):
        ddim(V2, (1000, 1))


def test_leading_spacing_past_the_last_timestep_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 999"):
        ddim(V1, 1000)


def test_epsilon_with_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ConfigError, match="v_prediction"):
        NoiseConfig(rescale_betas_zero_snr=True)
