"""Clip options and inputs: exact fractions of the schedule, and wrong values refused at the call."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from animate_rt import AnimateError, Animator, ConfigError, InputError
from animate_rt.engines.contract import DENOISING_UNET
from animate_rt.runtime.clip.options import (
    ClipOptions,
    OptionKeywords,
    options_with,
    parse_schedule,
    unet_graphs,
)

from .clips import pictures
from .damage import thread_cpu_s


def guided(num_steps: int, start: float, end: float) -> list[int]:
    interval = ClipOptions(guidance_interval=(start, end)).guidance_interval
    graphs = unet_graphs(num_steps, 3.5, interval)
    return [step for step, graph in enumerate(graphs) if graph == DENOISING_UNET]


def test_fractions_of_the_schedule_are_exact() -> None:
    """0.28 of 25 steps is 7, which in floats is a little more."""
    assert guided(25, 0, 0.28) == list(range(7))
    assert guided(25, 0, 0.56) == list(range(14))
    assert guided(25, 0.28, 1) == list(range(7, 25))
    assert guided(50, 0.14, 0.58) == list(range(7, 29))
    assert guided(25, 0.28, 0.28) == []
    wrong_in_floats = 0
    for num_steps, share in product(range(1, 101), range(101)):
        first = -(-share * num_steps // 100)  # the first step that is not before that share
        assert guided(num_steps, 0, share / 100) == list(range(first))
        assert guided(num_steps, share / 100, 1) == list(range(first, num_steps))
        wrong_in_floats += sum(step < share / 100 * num_steps for step in range(num_steps)) != first
    assert wrong_in_floats == 13  # each as a start and as an end


def test_fractions_with_more_decimals() -> None:
    chance = random.Random(0)
    for _ in range(1000):
        digits, num_steps = chance.randint(1, 9), chance.randint(1, 1000)
        start, end = sorted(chance.randint(0, 10**digits) for _ in range(2))
        found = guided(num_steps, float(f"{start}e-{digits}"), float(f"{end}e-{digits}"))
        first, after = (-(-value * num_steps // 10**digits) for value in (start, end))
        assert found == list(range(first, after))


NAN, DEEP = float("nan"), []
for _ in range(10_000):
    DEEP = [DEEP]
VALUES: list[Any] = [
    *(-1, 0, 1, 2.5, 3.0, NAN, float("inf"), 1e-320, 2**64, 10**400, 10**5000, -(10**5000), 1j),
    *(True, False, None, "", "3", "uniform", "time-skewed", "x" * 10**6, "a\nb\x1b[31m\ud800", b"3"),
    *([], [5, 3], (9, 5, 1), (0.2, 0.6), [0.6, 0.2], (0, NAN), (0, "1"), [[1]], [10**5000], DEEP, {}, {1: 2}),
    *(object(), int, len, Decimal("NaN"), Decimal("2.5"), Fraction(7, 25), range(3), iter([3, 1])),
    *(np.int64(3), np.uint8(200), np.float32(0.28), np.float64(2), np.bool_(True), np.array(3), np.zeros(2)),
    *(np.array(["3"]), np.datetime64("2026-01-01"), Path("3")),
]


def test_wrong_values_are_refused_in_one_line(small_manifest: Any) -> None:
    """Whatever is not refused makes settings that can be used."""
    messages = []
    for name, value in product(ClipOptions.__dataclass_fields__, VALUES):
        began = thread_cpu_s()
        try:
            options = ClipOptions(**{name: value})
            settings = options.resolve(small_manifest)
        except ConfigError as error:
            messages.append(str(error))
        else:
            assert {type(step.timestep) for step in settings.steps} == {int}
            assert len(settings.unet_graphs) == len(settings.steps)
            assert isinstance(options.seed, int)
            assert 1 <= settings.guidance_scale <= 100
            assert hash(options) is not None
        assert thread_cpu_s() - began < 1
    assert len(messages) > 300
    for message in messages:
        assert message.isprintable()
        assert len(message) < 400
        assert "expected" in message


@pytest.fixture(scope="module")
def small_manifest(small_bundle: Path) -> Any:
    from animate_rt.engines.bundle import open_bundle

    return open_bundle(small_bundle).manifest


IMPOSSIBLE: list[dict[str, Any]] = [
    *({"steps": steps} for steps in (0, -3, 100_001, 2**64, True, "25", b"3", 2.0, NAN)),
    *({"steps": steps} for steps in ((), [], (999, 999), (249, 999), (5, -1), (9.5, 1), ("9", "1"))),
    *({"steps": steps} for steps in ((100_000, 1), range(10**20, 0, -1), range(50_000, -(10**12), -1))),
    *({"overlap": overlap} for overlap in (-1, 4096, 2.0)),
    *({"guidance_scale": scale} for scale in (0.5, 101, NAN)),
    *({"solver": solver} for solver in ("euler", "DDIM", 3, ["ddim"])),
    {"order": "time-skewed"},
    {"order": "time-skewed", "windows": "uniform"},
    {"background": (0, 0, 256)},
]


def test_what_no_bundle_can_do_is_refused_before_there_is_a_bundle() -> None:
    for options in IMPOSSIBLE:
        began = thread_cpu_s()
        with pytest.raises(ConfigError, match=f"^{next(iter(options))}.*: expected .*, found"):
            pytest.fail(f"{options} was accepted: {ClipOptions(**options)}")
        assert thread_cpu_s() - began < 1
    assert ClipOptions(steps=100_000, overlap=4095).steps == 100_000
    assert ClipOptions(steps=[99_999, 500, 0]).steps == (99_999, 500, 0)  # type: ignore[arg-type]


def test_defaults_of_a_bundle(small_manifest: Any) -> None:
    """Options that are given stay; the others come from the bundle, and settings are made of both."""
    filled = ClipOptions(seed=3, order="step-major").with_defaults(small_manifest)
    sampling = small_manifest.model.sampling
    assert filled == ClipOptions(
        steps=sampling.schedule,
        solver=sampling.solver,
        guidance_scale=sampling.guidance_scale,
        overlap=4,
        seed=3,
        order="step-major",
    )
    assert ClipOptions(seed=3).resolve(small_manifest) == filled.resolve(small_manifest)
    given = ClipOptions(steps=(999, 3), solver="unipc", guidance_scale=1, overlap=0, windows="open")
    assert given.with_defaults(small_manifest) == given
    for window, overlap in ((1, 0), (3, 2), (5, 4), (24, 4)):
        bucket = replace(small_manifest.bucket, window=window)
        settings = ClipOptions().resolve(replace(small_manifest, bucket=bucket))
        assert (settings.window, settings.overlap) == (window, overlap)


@pytest.mark.parametrize("text", ["", "x", "9" * 5000, "3,", "1,x", "\x1b[31m", "5" * 10**6])
def test_wrong_steps_of_the_command_line(text: str) -> None:
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="expected a number of steps like 25") as caught:
        parse_schedule(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_numbers_of_any_type(arithmetic: Callable[..., Animator]) -> None:
    options = ClipOptions(
        steps=np.int64(3),
        seed=np.uint8(7),
        overlap=np.int32(2),
        guidance_scale=np.float32(2),
        guidance_interval=[0, 1],
    )  # type: ignore[arg-type]
    assert options == ClipOptions(steps=3, seed=7, overlap=2, guidance_scale=2.0)
    assert repr(options) == repr(ClipOptions(steps=3, seed=7, overlap=2, guidance_scale=2.0))
    with arithmetic() as animator:
        clip = animator.animate(pictures(1)[0], pictures(5), options, frames=np.int64(2))  # type: ignore[arg-type]
        assert len(list(clip)) == 2


def test_keywords_are_the_options() -> None:
    """Type checkers see those of OptionKeywords, which cannot be derived from the fields."""
    assert get_type_hints(OptionKeywords) == get_type_hints(ClipOptions)
    assert not OptionKeywords.__required_keys__
    keywords = inspect.signature(Animator.animate).parameters["keywords"]
    assert keywords.annotation == "Unpack[OptionKeywords]"


def test_keywords_take_precedence_over_options() -> None:
    given = ClipOptions(steps=3, seed=7)
    assert options_with(given, {"seed": 8}) == ClipOptions(steps=3, seed=8)
    assert options_with(None, {}) == ClipOptions()
    assert options_with(given, {}) == given == ClipOptions(steps=3, seed=7)


PICTURES = pictures(3)
WRONG_INPUTS: list[dict[str, Any]] = [
    {"options": {}},
    {"options": {"steps": 3}},
    {"options": "steps=3"},
    {"options": ClipOptions},
    {"stepz": 3},
    {"options": ClipOptions(), "frame": 3},
    {"a\nb\x1b[31m" + "x" * 1000: 3},
    {"steps": 0},
    {"guidance_scale": "3"},
    {"windows": ["uniform"]},
    {"seed": 1.5},
    {"overlap": 2.0},
    {"pose_fps": "fast"},
    {"frames": 2.5},
    {"frames": "2"},
    {"frames": True},
    {"frames": -1},
    {"frames": NAN},
    {"frames": -(10**5000)},
    {"initial_noise": np.zeros((1, 4, 3, 12, 8), np.float32)},
    {"initial_noise": 3},
    {"initial_noise": b"noise.npy"},
    {"initial_noise": "no\0where.npy"},
    {"initial_noise": "x" * 10**5},
    {"initial_noise": "/dev/zero"},
    {"reference": None},
    {"reference": 3},
    {"reference": [1, 2, 3]},
    {"reference": np.zeros((96, 64), np.uint8)},
    {"reference": np.zeros((96, 64, 3), np.float32)},
    {"reference": np.zeros((96, 64, 4), np.uint8)},
    {"pose": None},
    {"pose": 3},
    {"pose": PICTURES[0]},
    {"pose": [1, 2]},
    {"pose": [PICTURES[0], None]},
    {"pose": [PICTURES[0], PICTURES[0].astype(float)]},
    {"pose": np.zeros((2, 96, 64), np.uint8)},
    {"pose": np.zeros((2, 96, 64, 3), np.float32)},
    {"progress": None},
    {"progress": 3},
    {"snapshots": None},
    {"snapshots": {}},
]


def test_wrong_inputs_are_refused_at_the_call(arithmetic: Callable[..., Animator]) -> None:
    """Not at the first frame, when the reference has been computed."""
    with arithmetic() as animator:
        for i, wrong in enumerate(WRONG_INPUTS):
            arguments: dict[str, Any] = {"reference": PICTURES[0], "pose": PICTURES} | wrong
            with pytest.raises(AnimateError) as caught:
                pytest.fail(f"wrong input {i} was accepted: {animator.animate(**arguments)}")
            assert isinstance(caught.value, ConfigError | InputError)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 700
        with pytest.raises(ConfigError, match=r"^options: expected steps, .*, background, found stepz$"):
            animator.animate(PICTURES[0], PICTURES, stepz=3)  # type: ignore[call-arg]
        assert animator.session.engine("reference_net").runs == 0
