"""Records what diffusers' multistep schedulers do, as golden data for test_solvers.py.

The project does not depend on diffusers, so this runs in an environment of its own:

    python -m venv public && public/bin/pip install diffusers==0.42.1 torch
    public/bin/python tests/record_solvers.py

The schedulers compute in float32. To compare in float64, their source is loaded with every float32 replaced
by float64. It writes tests/data/solvers.json: for each case the timesteps, and the latents before the first
step and after the last.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from diffusers import __version__

FILE = Path(__file__).parent / "data" / "solvers.json"
SCHEDULERS = {
    "dpm++2m": ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler"),
    "unipc": ("scheduling_unipc_multistep", "UniPCMultistepScheduler"),
}
NOISES: list[dict[str, Any]] = [
    {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": schedule,
        "prediction_type": prediction,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
        "steps_offset": 1,
    }
    for schedule, (prediction, zero_snr), spacing in product(
        ("linear", "scaled_linear"),
        (("epsilon", False), ("v_prediction", False), ("v_prediction", True)),
        ("leading", "trailing"),
    )
]
SCHEDULES: list[int | list[int]] = [1, 2, 3, 4, 10, 15, 25, 50]
SCHEDULES += [[999, 749, 499, 249], [999, 950, 600, 40, 3], [700]]


def in_float64(name: str) -> ModuleType:
    """Return a module of diffusers.schedulers, changed to compute in float64."""
    spec = importlib.util.find_spec(f"diffusers.schedulers.{name}")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text().replace("float32", "float64")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


def start(scheduler: Any, schedule: int | list[int]) -> None:
    """Set the timesteps. UniPC takes no list of them; it is given what DPM-Solver++ makes of one."""
    if isinstance(schedule, int):
        scheduler.set_timesteps(schedule)
    elif "DPM" in type(scheduler).__name__:
        scheduler.set_timesteps(timesteps=schedule)
    else:
        scheduler.set_timesteps(len(schedule))
        scheduler.timesteps = torch.tensor(schedule)
        alphas = scheduler.alphas_cumprod
        scheduler.sigmas = torch.cat([((1 - alphas) / alphas)[schedule] ** 0.5, torch.zeros(1)])


def record(scheduler: Any, schedule: int | list[int]) -> dict[str, Any]:
    start(scheduler, schedule)
    timesteps = scheduler.timesteps
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3)))
    first = latents[0].tolist()
    for timestep in timesteps:  # a stand-in for a network, which depends on the latents
        prediction = torch.sin(3 * latents + timestep)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return {"timesteps": timesteps.tolist(), "first": first, "last": latents[0].tolist()}


def main() -> None:
    assert __version__ == "0.42.1"
    cases = []
    for solver, (module, name) in SCHEDULERS.items():
        scheduler = getattr(in_float64(module), name)
        for noise, schedule in product(NOISES, SCHEDULES):
            case = {"solver": solver, "noise": noise, "schedule": schedule}
            cases.append(json.dumps(case | record(scheduler(**noise), schedule)))
    FILE.write_text("[\n" + ",\n".join(cases) + "\n]\n")


if __name__ == "__main__":
    main()
