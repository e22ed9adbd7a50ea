"""Clip options: they determine a clip's frames, together with its inputs and the bundle.

Each option is defined here only: as a field of ClipOptions, which gives the name, the default and, as
metadata, the argument of the command line, and as a keyword in OptionKeywords, for type checkers.
`__post_init__` rejects invalid values, `resolve` applies the options to a bundle. The command line, job lists
and digests of shots take their options from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from operator import index
from typing import Any, TypedDict

from ...engines import contract
from ...engines.manifest import Manifest
from ...engines.model import MAX_FRAMES, MAX_GUIDANCE_SCALE, MAX_TIMESTEPS, Schedule, Solver
from ...errors import ConfigError
from ...text import quoted
from ..media.colour import RGB, parse_colour
from .caching import CachedStep, cached_steps
from .order import ORDERS, Order
from .sampler import Step
from .solvers import SOLVERS
from .windows import DEFAULT_OVERLAP, POLICIES, Length, Policy, Window

WHOLE_SCHEDULE = (0.0, 1.0)
MAX_WHOLE = 2**64 - 1  # of seeds and counts


def parse_schedule(text: str) -> Schedule:
    """Parse a number of steps like 25, or timesteps like 999,749,499,249."""
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a number of steps like 25, or timesteps like 999,749,499,249, found {quoted(text)}"
        ) from error
    return numbers if len(numbers) > 1 else numbers[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions:
    """Options of one clip. None means the default; the bundle sets it for steps, solver and guidance_scale.

    steps: the number of denoising steps, or their timesteps in descending order, as few-step weights need.
    solver: "ddim", or one of the multistep solvers "dpm++2m" and "unipc".
    guidance_scale: 1 (no guidance) to 100. At 1 the unconditional half is not computed.
    guidance_interval: two fractions of the schedule. Only the steps between them are guided.
    cache_interval: 1, or in one of how many steps the whole UNet runs; others run only its last layer.
        Lossy. Needs 15 steps and a bundle built with feature_cache.
    seed: seed of the noise, at least 0. A frame's noise depends only on the seed and the frame's index.
    windows: "uniform" is the public scheduler, which wraps around to the first frames; "open" does not wrap.
    overlap: number of frames that neighbouring windows share, less than the bundle's window; default 4, or
        one less than a window of up to 4 frames.
    order: order of the tasks. It changes when frames are ready, not their content. "step-major" takes the
        whole clip through each step. "time-skewed", the default with open windows, finishes one window after
        another, so that frames are ready early and memory does not grow with the clip.
    background: colour behind transparent parts of the reference, as a name, "#rrggbb" or three numbers from 0
        to 255. None keeps the colours stored under them, as the public pipeline does.

    Raises ConfigError if a value cannot work with any bundle. `resolve` raises it for what one bundle cannot
    do, such as an overlap as large as its window.
    """

    steps: Schedule | None = field(
        default=None,
        metadata={
            "type": parse_schedule,
            "metavar": "N|T,T,...",
            "help": "number of denoising steps, or the timesteps of few-step weights, like 999,749,499,249 "
            "(default: set by the bundle, usually 25)",
        },
    )
    solver: Solver | None = field(
        default=None,
        metadata={
            "choices": SOLVERS,
            "help": "ddim is the public code's; dpm++2m and unipc are multistep solvers with other frames "
            "(default: set by the bundle, usually ddim)",
        },
    )
    guidance_scale: float | None = field(
        default=None,
        metadata={
            "type": float,
            "metavar": "S",
            "help": "guidance scale; 1 is no guidance (default: set by the bundle, usually 3.5)",
        },
    )
    guidance_interval: tuple[float, float] = field(
        default=WHOLE_SCHEDULE,
        metadata={
            "type": float,
            "nargs": 2,
            "metavar": ("START", "END"),
            "help": "guide only the steps between these two fractions of the schedule (default: 0 1)",
        },
    )
    cache_interval: int = field(
        default=1,
        metadata={
            "type": int,
            "metavar": "K",
            "help": "run the whole UNet only in one of K steps, and its last layer in the others: faster and "
            "lossy; for 15 steps and more, and bundles built with --feature-cache (default: %(default)s)",
        },
    )
    seed: int = field(default=42, metadata={"type": int, "help": "seed of the noise (default: %(default)s)"})
    windows: str = field(
        default="uniform",
        metadata={
            "choices": POLICIES,
            "help": "uniform wraps around to the first frames, as the public code does; open does not wrap "
            "(default: %(default)s)",
        },
    )
    overlap: int | None = field(
        default=None,
        metadata={
            "type": int,
            "metavar": "N",
            "help": "number of frames that neighbouring windows share (default: 4)",
        },
    )
    order: str | None = field(
        default=None,
        metadata={
            "choices": ORDERS,
            "help": "time-skewed (default with open windows) finishes one window after another: the first "
            "frames are early, and memory is independent of the clip's length; step-major takes the whole "
            "clip through each step; the frames are the same",
        },
    )
    background: str | RGB | None = field(
        default=None,
        metadata={
            "metavar": "COLOUR",
            "help": "colour behind transparent parts of the reference, like white or #ffffff (default: the "
            "colours stored under them, as in the public code); transparent parts of poses are always black",
        },
    )

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "steps": None if self.steps is None else checked_schedule(self.steps),
            "solver": None if self.solver is None else one_of("solver", self.solver, SOLVERS),
            "guidance_scale": None if self.guidance_scale is None else checked_scale(self.guidance_scale),
            "guidance_interval": checked_interval(self.guidance_interval),
            "cache_interval": whole_number(
                "cache_interval", self.cache_interval, least=1, most=MAX_TIMESTEPS
            ),
            "seed": whole_number("seed", self.seed),
            "windows": one_of("windows", self.windows, POLICIES),
            "overlap": None
            if self.overlap is None
            else whole_number("overlap", self.overlap, most=MAX_FRAMES - 1),
            "order": None if self.order is None else one_of("order", self.order, ORDERS),
            "background": None if self.background is None else parse_colour(self.background),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.order == "time-skewed" and self.windows != "open":
            raise ConfigError(f"order time-skewed: expected open windows, found {self.windows}")

    def with_defaults(self, manifest: Manifest) -> ClipOptions:
        """Return the options with the bundle's steps, solver, guidance_scale and overlap filled in."""
        sampling, window = manifest.model.sampling, manifest.bucket.window
        defaults: dict[str, Any] = {
            "steps": sampling.schedule,
            "solver": sampling.solver,
            "guidance_scale": sampling.guidance_scale,
            "overlap": min(DEFAULT_OVERLAP, window - 1),
        }
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def resolve(self, manifest: Manifest) -> ClipSettings:
        """Apply the options to a bundle. Raises ConfigError if they do not fit it."""
        filled, window = self.with_defaults(manifest), manifest.bucket.window
        schedule, scale, overlap = filled.steps, filled.guidance_scale, filled.overlap
        assert schedule is not None
        assert filled.solver is not None
        assert scale is not None
        assert overlap is not None
        if overlap >= window:
            raise ConfigError(
                f"overlap: expected 0 to {window - 1} frames, less than the bundle's window of {window}, "
                f"found {overlap}"
            )
        steps = SOLVERS[filled.solver](manifest.model.noise, schedule)
        order = self.order or ("time-skewed" if self.windows == "open" else "step-major")
        graphs = unet_graphs(len(steps), scale, self.guidance_interval)
        cached = cached_steps(graphs, self.cache_interval, manifest) if self.cache_interval > 1 else []
        return ClipSettings(
            steps=steps,
            unet_graphs=[step.graph for step in cached] or graphs,
            cached=cached,
            guidance_scale=scale,
            seed=self.seed,
            policy=POLICIES[self.windows],
            window=window,
            overlap=overlap,
            order=ORDERS[order],
            background=None if self.background is None else parse_colour(self.background),
        )


class OptionKeywords(TypedDict, total=False):
    """The fields of ClipOptions as keyword arguments, for type checkers. A test compares both."""

    steps: Schedule | None
    solver: Solver | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float]
    cache_interval: int
    seed: int
    windows: str
    overlap: int | None
    order: str | None
    background: str | RGB | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """Clip options with the defaults of one bundle filled in."""

    steps: list[Step]
    unet_graphs: list[str]  # the graph of the denoising UNet that each step runs
    cached: list[CachedStep]  # empty without feature caching
    guidance_scale: float
    seed: int
    policy: Policy
    window: int  # in frames
    overlap: int  # in frames
    order: Order
    background: RGB | None

    def windows(self, length: Length) -> Iterable[Window]:
        """Return the windows of a clip, as its policy does."""
        return self.policy(length, self.window, self.overlap)


def unet_graphs(num_steps: int, scale: float, between: tuple[float, float]) -> list[str]:
    """Return each step's UNet variant: with guidance between two fractions of the schedule, else without."""
    # In floats, 0.28 * 25 is more than 7. `str` gives the decimals that were meant.
    first, end = (Fraction(str(fraction)) * num_steps for fraction in between)
    guided, plain = contract.DENOISING_UNET, contract.DENOISING_UNET_CONDITIONAL
    return [guided if scale > 1 and first <= step < end else plain for step in range(num_steps)]


def add_options(command: argparse.ArgumentParser, *names: str) -> None:
    """Add the options with these names to a command, or all options if none is named."""
    for each in fields(ClipOptions):
        if not names or each.name in names:
            command.add_argument(f"--{each.name.replace('_', '-')}", default=each.default, **each.metadata)


def options_with(options: Any, keywords: Mapping[str, Any]) -> ClipOptions:
    """Return the options, or the defaults if None, with those in `keywords` replaced.

    Raises ConfigError for anything but a ClipOptions, for unknown names and for values as ClipOptions does.
    """
    if options is None:
        options = ClipOptions()
    if not isinstance(options, ClipOptions):
        raise ConfigError(f"options: expected a ClipOptions, found {quoted(options)}")
    known = [each.name for each in fields(ClipOptions)]
    for name in keywords:
        if name not in known:
            raise ConfigError(f"options: expected {', '.join(known)}, found {quoted(name)}")
    return replace(options, **keywords)


def options_of(source: dict[str, Any]) -> ClipOptions:
    """Take the options from the arguments of a command or the keys of a job; other names are ignored."""
    return ClipOptions(
        **{each.name: source[each.name] for each in fields(ClipOptions) if each.name in source}
    )


def whole_number(name: str, value: Any, least: int = 0, most: int = MAX_WHOLE) -> int:
    """Return a whole number of any integer type. Raises ConfigError for anything else, and out of range."""
    try:
        number = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, found {quoted(value)}")
    if number > most:
        raise ConfigError(f"{name}: expected at most {most}, found {quoted(value)}")
    return number


def checked_schedule(value: Any) -> Schedule:
    try:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return checked_timesteps(value)
        return whole_number("steps", value, least=1, most=MAX_TIMESTEPS)
    except ConfigError as error:
        raise ConfigError(
            f"steps: expected 1 to {MAX_TIMESTEPS} steps, or descending timesteps like 999,749,499,249, "
            f"found {quoted(value)}"
        ) from error


def checked_timesteps(values: Sequence[Any]) -> tuple[int, ...]:
    """Return timesteps, each less than the one before. Raises ConfigError for any others, or none."""
    timesteps: list[int] = []
    for value in values:
        above = timesteps[-1] if timesteps else MAX_TIMESTEPS
        timesteps.append(whole_number("timestep", value, most=above - 1))
    if not timesteps:
        raise ConfigError("steps: expected at least one timestep, found none")
    return tuple(timesteps)


def checked_scale(value: Any) -> float:
    if isinstance(value, bool | str) or not is_between(1, value, MAX_GUIDANCE_SCALE):
        raise ConfigError(f"guidance_scale: expected 1 (none) to {MAX_GUIDANCE_SCALE}, found {quoted(value)}")
    return float(value)


def checked_interval(value: Any) -> tuple[float, float]:
    match value:
        case (start, end) if is_between(0, start, 1) and is_between(start, end, 1):
            return float(start), float(end)
    raise ConfigError(
        "guidance_interval: expected two fractions of the schedule, 0 <= start <= end <= 1, "
        f"found {quoted(value)}"
    )


def is_between(least: float, value: Any, most: float) -> bool:
    """Return whether `value` is a number in this range; NaN is not."""
    try:
        return bool(least <= float(value) <= most) and not isinstance(value, str)
    except (TypeError, ValueError, OverflowError):
        return False


def one_of(name: str, value: Any, known: Any) -> str:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {quoted(value)}")
    return value
