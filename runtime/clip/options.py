"""Clip options: what decides a clip's frames besides its inputs and the bundle.

This is the one place that knows an option. Its field gives the name, the default and, as metadata, the
argument of the command line. `__post_init__` refuses what cannot work, `resolve` applies the options to a
bundle. The command line, job lists and digests of shots take their options from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import index
from typing import Any

from ...engines import contract
from ...engines.bundle import Manifest
from ...engines.model import Schedule
from ...errors import ConfigError
from .order import ORDERS, Order
from .sampler import Step, ddim
from .windows import DEFAULT_OVERLAP, POLICIES, Policy

WHOLE_SCHEDULE = (0.0, 1.0)
MAX_GUIDANCE_SCALE = 100  # far beyond use, and finite in every precision


def schedule(text: str) -> Schedule:
    """Parse 25, or 999,749,499,249."""
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected 25, or timesteps like 999,749,499,249, found {text}"
        ) from error
    return numbers if len(numbers) > 1 else numbers[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions:
    """Options of one clip. None stands for what the bundle's weights were made for, or the usual value.

    steps: a number of steps, or their timesteps in falling order, as few-step weights need them.
    guidance_scale: 1 (none) to 100. At 1 the unconditional half is not computed.
    guidance_interval: only the steps between these two fractions of the schedule are guided.
    seed: of the noise, at least 0. A frame's noise depends on the seed and the frame's index alone.
    windows: "uniform" is the public scheduler, which wraps around to the first frames; "open" does not.
    overlap: frames that neighbouring windows share, less than the bundle's window; usually 4.
    order: when frames leave, not what they are. "step-major" takes the whole clip through each step.
        "time-skewed", the default of open windows, finishes one window after another, so that frames leave
        early and memory does not grow with the clip.

    Raises ConfigError where a value cannot work with any bundle.
    """

    steps: Schedule | None = field(
        default=None,
        metadata={
            "type": schedule,
            "metavar": "N|T,T,...",
            "help": "denoising steps, or the timesteps of few-step weights, like 999,749,499,249 "
            "(default: what the weights were made for; 25 unless they say otherwise)",
        },
    )
    guidance_scale: float | None = field(
        default=None,
        metadata={
            "type": float,
            "metavar": "S",
            "help": "1 is no guidance (default: what the weights were made for; 3.5 unless they say "
            "otherwise)",
        },
    )
    guidance_interval: tuple[float, float] = field(
        default=WHOLE_SCHEDULE,
        metadata={
            "type": float,
            "nargs": 2,
            "metavar": ("START", "END"),
            "help": "guide only the steps between two fractions of the schedule (default: 0 1)",
        },
    )
    seed: int = field(default=42, metadata={"type": int, "help": "seed of the noise (default: %(default)s)"})
    windows: str = field(
        default="uniform",
        metadata={
            "choices": POLICIES,
            "help": "uniform wraps around to the first frames as the public code does, open does not "
            "(default: %(default)s)",
        },
    )
    overlap: int | None = field(
        default=None,
        metadata={"type": int, "metavar": "N", "help": "frames that neighbouring windows share (default: 4)"},
    )
    order: str | None = field(
        default=None,
        metadata={
            "choices": ORDERS,
            "help": "time-skewed (default with open windows): early first frames, memory independent of the "
            "clip's length; step-major: the whole clip, step by step; the frames are the same",
        },
    )

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "steps": None if self.steps is None else whole_steps(self.steps),
            "guidance_scale": None if self.guidance_scale is None else guidance(self.guidance_scale),
            "guidance_interval": interval(self.guidance_interval),
            "seed": whole("seed", self.seed),
            "windows": one_of("windows", self.windows, POLICIES),
            "overlap": None if self.overlap is None else whole("overlap", self.overlap),
            "order": None if self.order is None else one_of("order", self.order, ORDERS),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.order == "time-skewed" and self.windows != "open":
            raise ConfigError(f"order time-skewed: expected open windows, found {self.windows}")

    def resolve(self, manifest: Manifest) -> ClipSettings:
        """What these options mean for a bundle. Raises ConfigError where they do not suit it."""
        model, window = manifest.model, manifest.bucket.window
        sampling = model.sampling
        steps = ddim(model.noise, sampling.schedule if self.steps is None else self.steps)
        scale = sampling.guidance_scale if self.guidance_scale is None else self.guidance_scale
        overlap = min(DEFAULT_OVERLAP, window - 1) if self.overlap is None else self.overlap
        if overlap >= window:
            raise ConfigError(
                f"overlap: expected 0 to {window - 1} frames, less than the bundle's window of {window}, "
                f"found {overlap}"
            )
        order = self.order or ("time-skewed" if self.windows == "open" else "step-major")
        return ClipSettings(
            steps=steps,
            unet_graphs=unet_graphs(len(steps), guidance(scale), self.guidance_interval),
            guidance_scale=scale,
            seed=self.seed,
            policy=POLICIES[self.windows],
            window=window,
            overlap=overlap,
            order=ORDERS[order],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """Clip options resolved for one bundle: nothing is left to a default."""

    steps: list[Step]
    unet_graphs: list[str]  # the variant of the denoising UNet that each step runs
    guidance_scale: float
    seed: int
    policy: Policy
    window: int  # frames, as is overlap
    overlap: int
    order: Order


def unet_graphs(num_steps: int, scale: float, between: tuple[float, float]) -> list[str]:
    """The UNet with guidance for the steps between two fractions of the schedule, without for all others."""
    first, end = (fraction * num_steps for fraction in between)
    guided, plain = contract.DENOISING_UNET, contract.DENOISING_UNET_CONDITIONAL
    return [guided if scale > 1 and first <= step < end else plain for step in range(num_steps)]


def add_options(command: argparse.ArgumentParser, *names: str) -> None:
    """Add the options of these names to a command, or all."""
    for each in fields(ClipOptions):
        if not names or each.name in names:
            command.add_argument(f"--{each.name.replace('_', '-')}", default=each.default, **each.metadata)


def options_of(source: dict[str, Any]) -> ClipOptions:
    """The options among the arguments of a command or the keys of a job; other names are left alone."""
    return ClipOptions(
        **{each.name: source[each.name] for each in fields(ClipOptions) if each.name in source}
    )


def whole(name: str, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ConfigError(f"{name}: expected a whole number of at least 0, found {value!r}")
    return number


def whole_steps(value: Any) -> Schedule:
    try:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(whole("steps", timestep) for timestep in value)
        return whole("steps", value)
    except ConfigError as error:
        raise ConfigError(
            f"steps: expected a number of steps like 25, or falling timesteps like 999,749,499,249, "
            f"found {value!r}"
        ) from error


def guidance(value: Any) -> float:
    if isinstance(value, bool | str) or not is_between(1, value, MAX_GUIDANCE_SCALE):
        raise ConfigError(f"guidance_scale: expected 1 (none) to {MAX_GUIDANCE_SCALE}, found {value!r}")
    return float(value)


def interval(value: Any) -> tuple[float, float]:
    match value:
        case (start, end) if is_between(0, start, 1) and is_between(start, end, 1):
            return float(start), float(end)
    raise ConfigError(
        f"guidance_interval: expected two fractions of the schedule, 0 <= start <= end <= 1, found {value!r}"
    )


def is_between(least: float, value: Any, most: float) -> bool:
    """Whether `value` is a number in this range; NaN is not."""
    try:
        return bool(least <= float(value) <= most) and not isinstance(value, str)
    except (TypeError, ValueError):
        return False


def one_of(name: str, value: Any, known: Any) -> str:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
    return value
