"""Feature caching: what each step runs, the last layer on exact features, every order and interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt import Animator, ClipOptions, ConfigError
from animate_rt.engines.bundle import Bundle, open_bundle
from animate_rt.engines.contract import (
    CACHING,
    DENOISING_UNET,
    DENOISING_UNET_CONDITIONAL,
    SHALLOW,
    ShapeBucket,
    contracts,
)
from animate_rt.engines.manifest import Manifest
from animate_rt.export import build_bundle
from animate_rt.export.graphs import graph_modules
from animate_rt.runtime.clip.caching import CachedStep, cached_steps, kept_features
from animate_rt.runtime.clip.memory_plan import plan_memory
from animate_rt.runtime.shots.resume import PartialClip
from animate_rt.runtime.streams.operations import Operation

from .arithmetic import ArithmeticEngine
from .clips import pictures, render
from .delays import DelayedDevice
from .fixed_cost import example, hollow_bundle, write_inputs
from .hazards import NotingDevice, hazards
from .standin import installed, tensorrt_bundle
from .stopped_shots import make_until, result

GUIDED, PLAIN = DENOISING_UNET, DENOISING_UNET_CONDITIONAL
SHAPES = [("uniform", "step-major"), ("open", "step-major"), ("open", "time-skewed")]


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle without weights, built for feature caching."""
    return open_bundle(hollow_bundle(tmp_path_factory.mktemp("caching") / "bundle", feature_cache=True))


@pytest.fixture
def manifest(hollow: Bundle) -> Manifest:
    return hollow.manifest


@pytest.fixture
def caching(hollow: Bundle) -> Callable[..., Animator]:
    """`caching(**options)`: an animator with the engines of arithmetic.py."""
    return lambda **options: Animator(hollow, **{"load": ArithmeticEngine} | options)


def forms(steps: list[CachedStep]) -> str:
    """One letter per step: W and w are whole runs, S and s the last layer; capitals are guided."""
    letters = {CACHING[GUIDED]: "W", SHALLOW[GUIDED]: "S", CACHING[PLAIN]: "w", SHALLOW[PLAIN]: "s"}
    return "".join(letters[step.graph] for step in steps)


def test_which_steps_run_the_whole_network(manifest: Manifest) -> None:
    steps = cached_steps([GUIDED] * 16, 3, manifest)
    assert forms(steps) == "WSSWSSWSSWSSWSSW"
    thirds = [None, 0, 0, *4 * [None, pytest.approx(1 / 3), pytest.approx(2 / 3)], None]
    assert [step.extrapolation for step in steps] == thirds
    assert [step.kept is not None for step in steps] == [True, False, False] * 5 + [False]
    assert forms(cached_steps([PLAIN] * 15, 5, manifest)) == "wsssswsssswssss"


def test_guidance_in_part_of_the_schedule(manifest: Manifest) -> None:
    """Unguided steps use the conditional half; the first guided one needs features of its own."""
    steps = cached_steps([PLAIN] * 5 + [GUIDED] * 6 + [PLAIN] * 5, 4, manifest)
    assert forms(steps) == "wssswWSSSWSsswss"
    assert steps[6].extrapolation == 0  # nothing unconditional to extrapolate from
    assert steps[10].extrapolation == pytest.approx(1 / 4)
    rows = [[spec.shape[0] // manifest.bucket.window for spec in kept_features(steps, n)] for n in range(17)]
    assert rows[1] == [1]
    assert rows[5] == [1]
    assert rows[6] == [2, 1]
    assert rows[10] == [2, 2]


def test_the_last_layer_on_exact_features_is_the_whole_network(checkpoint: Any, case: Any) -> None:
    modules = graph_modules(checkpoint)
    bucket = ShapeBucket(width=case.width, height=case.height, window=case.window)
    every = contracts(checkpoint.config, bucket, "float32", feature_cache=True)
    torch.manual_seed(0)
    inputs = {spec.name: torch.randn(spec.shape) for spec in every[GUIDED].inputs}
    inputs["num_frames"] = torch.tensor([case.window - 1], dtype=torch.int32)

    def run(graph: str) -> Any:
        with torch.no_grad():
            return modules[graph](*(inputs[spec.name] for spec in every[graph].inputs))

    for unet in (GUIDED, PLAIN):
        expected, (found, features) = run(unet), run(CACHING[unet])
        assert torch.equal(found, expected)
        assert features.shape == every[CACHING[unet]].outputs[1].shape
        inputs |= {"deep_features": features, "deep_features_before": torch.zeros_like(features)}
        inputs["extrapolation"] = torch.tensor([0.0])
        assert torch.allclose(run(SHALLOW[unet]), expected, atol=1e-5)
        inputs |= {"deep_features": features - 1, "deep_features_before": features - 3}
        inputs["extrapolation"] = torch.tensor([0.5])
        assert torch.allclose(run(SHALLOW[unet]), expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"guidance_interval": (0.25, 0.7)}, {"guidance_scale": 1.0}])
def test_orders_streams_and_delays_do_not_change_a_bit(
    caching: Callable[..., Animator], options: dict[str, Any]
) -> None:
    options = {"steps": 15, "cache_interval": 4, "solver": "unipc"} | options
    with caching() as animator:
        truth = {windows: render(animator, windows=windows, **options) for windows in ("uniform", "open")}
        plain = render(animator, **options | {"cache_interval": 1})
    assert not np.array_equal(plain, truth["uniform"])
    for seed, (windows, order) in enumerate(2 * SHAPES):
        log: list[Operation] = []
        with caching(
            device=DelayedDevice(seed, 0.0005), denoise_streams=1 + seed % 3, observe=log.append
        ) as animator:
            assert np.array_equal(render(animator, windows=windows, order=order, **options), truth[windows])
        assert not hazards(log)
    for windows, order in SHAPES:
        device = NotingDevice()
        with caching(device=device, denoise_streams=2, observe=device.note_host) as animator:
            render(animator, windows=windows, order=order, **options)
        assert not hazards(device.calls)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_frames_of_the_real_engines(small: Any, small_bundle: Path, tmp_path: Path) -> None:
    """In all orders and on the stand-in for a GPU; those of an interval of one are those of other bundles."""
    build_bundle(small.checkpoint, tmp_path / "bundle", **small.build_options, feature_cache=True)
    plans = tensorrt_bundle(tmp_path / "bundle", tmp_path / "plans")
    options: dict[str, Any] = {"steps": 15, "overlap": 2, "pose": pictures(9), "guidance_interval": (0, 0.6)}
    with Animator.load(small_bundle) as animator:
        plain = render(animator, **options, windows="open")
    with Animator.load(tmp_path / "bundle") as animator:
        truth = render(animator, **options, windows="open", cache_interval=3)
        other = render(animator, **options, windows="open", order="step-major", cache_interval=3)
        assert np.array_equal(other, truth)
        assert np.array_equal(render(animator, **options, windows="open", cache_interval=1), plain)
        assert 0 < np.abs(truth - plain.astype(int)).mean() < 20
    log: list[Operation] = []
    with installed(1), Animator.load(plans, observe=log.append, denoise_streams=2) as animator:
        assert np.array_equal(render(animator, **options, windows="open", cache_interval=3), truth)
    assert not hazards(log)


def test_an_interval_of_one_runs_the_usual_graphs(caching: Callable[..., Animator]) -> None:
    with caching() as animator:
        assert np.array_equal(render(animator, steps=15, cache_interval=1), render(animator, steps=15))
        assert not set(animator.session.engines) & {*CACHING.values(), *SHALLOW.values()}


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize(("windows", "order"), [("uniform", "step-major"), ("open", "time-skewed")])
def test_the_memory_plan_counts_the_features(
    caching: Callable[..., Animator], windows: str, order: str, count: int
) -> None:
    options = ClipOptions(steps=15, overlap=2, windows=windows, order=order, cache_interval=3)
    with caching() as animator:
        settings = options.resolve(animator.bundle.manifest)
        plan = plan_memory(animator.bundle, settings, count)
        assert sum(1 for _ in animator.animate(pictures(1)[0], pictures(count), options)) == count
        taken = animator.session.pool.allocated_bytes
    assert plan.total <= taken + 8 <= 1.3 * plan.total


@pytest.mark.parametrize("interval", [(0, 1), (0.3, 0.6)])
@pytest.mark.parametrize(("windows", "order"), SHAPES)
def test_a_stopped_shot_resumes_with_its_features(
    tmp_path: Path, windows: str, order: str, interval: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartialClip, "due", lambda _kept: True)  # a snapshot after every task
    (tmp_path / "inputs").mkdir()
    inputs = write_inputs(tmp_path / "inputs", 7, feature_cache=True)
    shot = partial(
        example,
        inputs,
        steps=15,
        cache_interval=3,
        guidance_scale=2.0,
        guidance_interval=interval,
        windows=windows,
        order=order,
    )
    for name in ("undisturbed", "stopped"):
        (tmp_path / name).mkdir()
    assert make_until(shot(tmp_path / "undisturbed" / "frames"), 10**9)
    num_stops = 0
    while not make_until(shot(tmp_path / "stopped" / "frames"), (13, 17, 30)[num_stops % 3]):
        num_stops += 1
        assert num_stops < 100
    assert num_stops >= 3
    assert result(tmp_path / "stopped") == result(tmp_path / "undisturbed")


def test_what_caching_cannot_do_is_refused(manifest: Manifest) -> None:
    with pytest.raises(
        ConfigError, match=r"^cache_interval: expected 1 with fewer than 15 steps, as with few"
    ):
        ClipOptions(steps=14, cache_interval=2).resolve(manifest)
    with pytest.raises(ConfigError, match=r"build it again: .* --precision fp32 --feature-cache$"):
        ClipOptions(steps=15, cache_interval=2).resolve(replace(manifest, feature_cache=False))
    with pytest.raises(ConfigError, match=r"^cache_interval: expected a whole number of at least 1, found 0"):
        ClipOptions(cache_interval=0)
    assert ClipOptions(steps=4, cache_interval=1).resolve(manifest).cached == []
