"""Clips on the stand-in for CUDA and TensorRT: bit for bit the CPU's frames, whenever streams run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, OutOfMemory
from animate_rt.runtime.streams import pool
from animate_rt.runtime.streams.operations import Operation
from numpy.typing import NDArray

from .hazards import hazards
from .standin import installed, tensorrt_bundle

Array = NDArray[Any]
SHAPES = [("uniform", "step-major"), ("open", "step-major"), ("open", "time-skewed")]


@pytest.fixture(scope="module")
def plans(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case's bundle for the stand-in."""
    return tensorrt_bundle(bundle, tmp_path_factory.mktemp("plans") / "bundle")


@pytest.fixture(scope="module")
def small_plans(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tensorrt_bundle(small_bundle, tmp_path_factory.mktemp("plans") / "bundle")


def render(animator: Animator, case: Any, **changed: Any) -> Array:
    options: dict[str, Any] = {"steps": 2, "overlap": 2, "guidance_scale": 2.0} | changed
    chance = np.random.default_rng(options.pop("pictures", 0))
    count = options.pop("count", case.window + 4)
    reference, *pose = chance.integers(0, 256, (1 + count, case.height, case.width, 3), np.uint8)
    return np.stack(list(animator.animate(reference, pose, **options)))


@pytest.fixture(scope="module")
def truth(bundle: Path, case: Any) -> dict[str, Array]:
    with Animator.load(bundle) as animator:
        return {windows: render(animator, case, windows=windows) for windows in ("uniform", "open")}


@pytest.mark.parametrize(("windows", "order"), SHAPES)
def test_orders_and_streams_give_the_frames_of_the_cpu(
    plans: Path, case: Any, truth: dict[str, Array], windows: str, order: str
) -> None:
    for seed, num_streams in enumerate((1, 2, 3)):
        log: list[Operation] = []
        with (
            installed(seed),
            Animator.load(plans, denoise_streams=num_streams, observe=log.append) as animator,
        ):
            for _ in range(2):  # the second clip replays CUDA graphs in buffers of the first
                found = render(animator, case, windows=windows, order=order)
                assert np.array_equal(found, truth[windows])
        assert not hazards(log)


def test_the_recorded_clip_equals_the_cpu(plans: Path, bundle: Path, case: Any) -> None:
    with Animator.load(bundle) as animator:
        expected = np.stack(list(animator.animate(case.reference, case.pose, **case.animate_options)))
    with installed(5), Animator.load(plans) as animator:
        found = np.stack(list(animator.animate(case.reference, case.pose, **case.animate_options)))
    assert np.array_equal(found, expected)


def test_short_clips_after_long_ones(small: Any, small_bundle: Path, small_plans: Path) -> None:
    """Padding frames hold whatever the memory held before; the stand-in fills it with NaN where it can."""
    lengths = (1, small.window + 3, 2, small.window)
    with Animator.load(small_bundle) as animator:
        expected = [render(animator, small, count=count, guidance_scale=1.0) for count in lengths]
    with installed(1), Animator.load(small_plans) as animator:
        found = [render(animator, small, count=count, guidance_scale=1.0) for count in lengths]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_clips_in_several_threads_and_both_unet_variants(
    small: Any, small_bundle: Path, small_plans: Path
) -> None:
    jobs: list[dict[str, Any]] = [
        {"seed": 1},
        {"guidance_scale": 1.0, "pictures": 2},
        {"windows": "open"},
        {"steps": 4, "guidance_interval": (0.25, 0.5)},
        {"steps": 5, "solver": "dpm++2m"},
        {"steps": 5, "solver": "unipc", "windows": "open"},
    ]
    with Animator.load(small_bundle) as animator:
        expected = [render(animator, small, **job) for job in jobs]
    with installed(2), Animator.load(small_plans) as animator, ThreadPoolExecutor(len(jobs)) as pool:
        found = list(pool.map(lambda job: render(animator, small, **job), jobs))
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_an_abandoned_clip_does_not_affect_others(small: Any, small_plans: Path) -> None:
    with installed(3), Animator.load(small_plans) as animator:
        expected = render(animator, small)
        allocated = animator.session.pool.allocated_bytes
        for pictures, taken in product((0, 4), (0, 1, 3)):
            chance = np.random.default_rng(pictures)
            reference, *pose = chance.integers(0, 256, (15, small.height, small.width, 3), np.uint8)
            clip = animator.animate(reference, pose, steps=2, overlap=2)
            for _ in range(taken):
                next(clip)
            clip.close()
            assert np.array_equal(render(animator, small), expected)
        assert animator.session.pool.allocated_bytes < 2 * allocated


def test_memory_released_between_clips_is_used_no_more(
    small: Any, small_bundle: Path, small_plans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while another thread makes a clip, and with references that give way."""
    monkeypatch.setattr(pool, "MAX_IDLE_BYTES", 0)
    chance = random.Random(0)
    jobs: list[dict[str, Any]] = [
        {
            "count": chance.randint(1, 20),
            "overlap": chance.randint(0, 5),
            "windows": chance.choice(["uniform", "open"]),
            "guidance_scale": chance.choice([1.0, 2.0]),
            "pictures": chance.randint(0, 3),
        }
        for _ in range(12)
    ]
    with Animator.load(small_bundle) as animator:
        expected = [render(animator, small, **job) for job in jobs]
    for seed in range(2):
        with (
            installed(seed) as gpu,
            Animator.load(small_plans, reference_cache_bytes=200_000) as animator,
            ThreadPoolExecutor(2) as threads,
        ):
            found = list(threads.map(lambda job: render(animator, small, **job), jobs))
            animator.session.pool.trim()
            assert animator.session.pool.free_bytes == 0
            assert gpu.memory.reserved_bytes == gpu.memory.used_bytes
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_out_of_device_memory_is_raised_and_everything_freed(small: Any, small_plans: Path) -> None:
    with installed(4, total_bytes=8_000_000) as gpu:
        with Animator.load(small_plans) as animator, pytest.raises(OutOfMemory, match="MB free"):
            render(animator, small, count=900)
        assert gpu.memory.used_bytes == 0
