"""Multistep solvers: equal to diffusers' in float64, and the same frames in every order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, ClipOptions, ConfigError
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.model import NoiseConfig, SamplingConfig
from animate_rt.runtime.clip.sampler import Step, alphas_cumprod, ddim
from animate_rt.runtime.clip.solvers import SOLVERS, num_estimates
from animate_rt.runtime.streams.operations import Operation

from .clips import render
from .delays import DelayedDevice
from .hazards import NotingDevice, hazards

WINDOWS = ("uniform", "open")
SHAPES = [("uniform", "step-major"), ("open", "step-major"), ("open", "time-skewed")]
RECORDED = json.loads((Path(__file__).parent / "data" / "solvers.json").read_text())
V2 = NoiseConfig(
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    steps_offset=1,
)


def sampled(steps: Sequence[Step], latents: Any) -> Any:
    """The latents after all steps, with the predictions of tests/record_solvers.py."""
    estimates: list[Any] = []
    for taken, step in enumerate(steps):
        assert len(estimates) == num_estimates(steps, taken)
        prediction = np.sin(3 * latents + step.timestep)
        terms = [factor * estimate for factor, estimate in zip(step.earlier, estimates, strict=False)]
        if step.clean is not None:
            estimates.insert(0, step.clean[0] * latents + step.clean[1] * prediction)
            del estimates[num_estimates(steps, len(steps)) :]
        latents = step.latents * latents + step.prediction * prediction + sum(terms)
    return latents


def test_steps_equal_those_of_diffusers_in_float64() -> None:
    """Over prediction types, spacings, zero terminal SNR and given timesteps."""
    worst = 0.0
    for case in RECORDED:
        schedule = case["schedule"] if isinstance(case["schedule"], int) else tuple(case["schedule"])
        steps = SOLVERS[case["solver"]](NoiseConfig(**case["noise"]), schedule)
        assert [step.timestep for step in steps] == case["timesteps"]
        found = sampled(steps, np.array(case["first"]))
        worst = max(worst, np.abs(found - case["last"]).max())
    assert len(RECORDED) > 200
    assert worst < 1e-10
    print(f"largest difference of {len(RECORDED)} clips: {worst:.1e}")


@pytest.mark.parametrize("solver", ["dpm++2m", "unipc"])
def test_the_first_and_the_last_step_are_those_of_ddim(solver: Any) -> None:
    noise = replace(V2, rescale_betas_zero_snr=False)
    steps, plain = SOLVERS[solver](noise, 10), ddim(noise, 10)
    assert steps[0].latents == pytest.approx(plain[0].latents, rel=1e-12)
    assert steps[0].prediction == pytest.approx(plain[0].prediction, rel=1e-12)
    last = float(alphas_cumprod(noise)[99])
    assert not steps[-1].earlier
    assert (steps[-1].latents, steps[-1].prediction) == pytest.approx((last**0.5, -((1 - last) ** 0.5)))
    assert num_estimates(steps, 10) == {"dpm++2m": 1, "unipc": 2}[solver]
    assert [step.clean is not None for step in steps] == [True] * 8 + [False] * 2


def test_a_straight_path_is_followed_exactly() -> None:
    """If the data is one point, the clean latents are the same at every step, and every solver finds them."""
    noise = replace(V2, rescale_betas_zero_snr=False)
    clean, alpha_bar = np.array([0.3, -1.2]), alphas_cumprod(noise)
    for solver, count in product(SOLVERS, (1, 2, 5, 20)):
        latents, estimates = np.array([1.1, 0.4]), []
        for step in SOLVERS[solver](noise, count):
            signal, sigma = alpha_bar[step.timestep] ** 0.5, (1 - alpha_bar[step.timestep]) ** 0.5
            velocity = (signal * latents - clean) / sigma
            past = sum(f * e for f, e in zip(step.earlier, estimates, strict=False))
            if step.clean is not None:
                estimates.insert(0, step.clean[0] * latents + step.clean[1] * velocity)
                assert estimates[0] == pytest.approx(clean)
            latents = step.latents * latents + step.prediction * velocity + past
        assert latents == pytest.approx(clean)


@pytest.mark.parametrize("solver", ["dpm++2m", "unipc"])
@pytest.mark.parametrize("steps", [0, -1, 999, 1000, 1001])
def test_steps_that_the_schedule_has_no_room_for_are_refused(solver: Any, steps: int) -> None:
    leading = NoiseConfig(steps_offset=1)
    with pytest.raises(ConfigError, match=f"^steps: expected 1 to .*, found {steps}$"):
        SOLVERS[solver](leading, steps)
    assert len(SOLVERS[solver](leading, 998)) == 998


@pytest.mark.parametrize("solver", ["dpm++2m", "unipc"])
def test_orders_streams_and_delays_do_not_change_a_bit(
    arithmetic: Callable[..., Animator], solver: Any
) -> None:
    """And no operation reads or overwrites an estimate too early."""
    with arithmetic() as animator:
        plain = render(animator, steps=5)
        truth = {windows: render(animator, steps=5, solver=solver, windows=windows) for windows in WINDOWS}
    assert not np.array_equal(plain, truth["uniform"])
    for seed, (windows, order) in enumerate(6 * SHAPES):
        log: list[Operation] = []
        with arithmetic(
            device=DelayedDevice(seed, 0.001), denoise_streams=1 + seed % 3, observe=log.append
        ) as animator:
            found = render(animator, steps=5, solver=solver, windows=windows, order=order)
        assert np.array_equal(found, truth[windows])
        assert not hazards(log)
    for windows, order in SHAPES:
        device = NotingDevice()
        with arithmetic(device=device, denoise_streams=2, observe=device.note_host) as animator:
            render(animator, steps=5, solver=solver, windows=windows, order=order)
        assert not hazards(device.calls)


def test_the_bundle_sets_the_solver(small_bundle: Path) -> None:
    manifest = open_bundle(small_bundle).manifest
    model = replace(manifest.model, sampling=SamplingConfig(steps=12, solver="unipc"))
    settings = ClipOptions().resolve(replace(manifest, model=model))
    assert settings.steps == SOLVERS["unipc"](model.noise, 12)
    assert ClipOptions(solver="ddim").resolve(replace(manifest, model=model)).steps == ddim(model.noise, 12)
    assert ClipOptions().resolve(manifest).steps == ddim(model.noise, 25)
