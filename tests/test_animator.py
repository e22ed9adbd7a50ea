"""Clips end to end: the recorded frames and latents, every option, and checks before anything runs."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from animate_rt import (
    Animator,
    BundleCorrupt,
    ConfigError,
    DeviceError,
    InputError,
    InputMissing,
    Progress,
    Rejected,
)
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.model import SamplingConfig
from animate_rt.runtime.clip.layout import Layout
from animate_rt.runtime.clip.order import step_major
from animate_rt.runtime.clip.windows import KnownLength, open_ended, uniform
from animate_rt.runtime.streams.operations import Operation
from numpy.typing import NDArray
from PIL import Image

from .clips import pictures

Array = NDArray[Any]


@pytest.fixture(scope="module")
def animator(bundle: Path) -> Iterator[Animator]:
    with Animator.load(bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def small_animator(small_bundle: Path) -> Iterator[Animator]:
    with Animator.load(small_bundle) as loaded:
        yield loaded


def render(animator: Animator, **changed: Any) -> Array:
    options: dict[str, Any] = {"reference": pictures(1, 9)[0], "pose": pictures(8), "steps": 2} | changed
    return np.stack(list(animator.animate(**options)))


def psnr(frames: Array, truth: Array) -> float:
    return float(-10 * math.log10(np.mean((frames.astype(np.float64) - truth) ** 2)))


def test_frames_of_the_public_implementation(
    animator: Animator, case: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """At least 58 dB; rounding to uint8 alone allows about 59."""
    frames = list(animator.animate(case.reference, case.pose, **case.animate_options))
    decibels = psnr(np.stack(frames) / 255, case.io["video"][0].transpose(1, 2, 3, 0))
    with capsys.disabled():
        print(f"\n{case.path.name}: float32 against the public implementation: {decibels:.1f} dB")
    assert decibels >= 58


def test_bfloat16_is_close(case: Any, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The graphs stay float32; OpenVINO computes them in bfloat16."""
    opened = open_bundle(bundle)
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bfloat16")
    manifest = dataclasses.replace(opened.manifest, precision="bf16")
    options = case.animate_options
    with Animator.load(bundle) as animator:
        truth = np.stack(list(animator.animate(case.reference, case.pose, **options)))
    with Animator(dataclasses.replace(opened, manifest=manifest)) as animator:
        frames = np.stack(list(animator.animate(case.reference, case.pose, **options)))
    decibels = psnr(frames / 255, truth / 255)
    with capsys.disabled():
        print(f"\n{case.path.name}: bf16 against float32: {decibels:.1f} dB")
    assert 30 < decibels < 70


def test_latents_after_every_step(bundle: Path, case: Any) -> None:
    tasks = step_major(layout := Layout(uniform(case.frames, case.window, case.overlap)), case.steps)
    compared = 0

    def compare(operation: Operation) -> None:
        nonlocal compared
        if operation.name != "update":
            return
        window, step = next(tasks)
        assert operation.ended is not None
        operation.ended.synchronize()
        expected = case.io[f"latents_after_step/{step}"][0].swapaxes(0, 1)
        # It writes latents for a segment's last window, and the sum for a segment of several windows.
        written = iter(operation.writes)
        for segment, _ in layout.places(window):
            if segment.windows[-1] == window:
                truth = expected[segment.frames.start : segment.frames.stop]
                assert np.abs(next(written).array - truth).max() <= 1e-3 * np.abs(expected).max()
                compared += len(segment.frames)
            if len(segment.windows) > 1:
                next(written)

    with Animator.load(bundle, observe=compare) as animator:
        list(animator.animate(case.reference, case.pose, **case.animate_options))
    assert compared == case.frames * case.steps


def test_the_reference_is_computed_once_and_cached_for_the_next_clip(small_bundle: Path) -> None:
    with Animator.load(small_bundle) as animator:
        options = {"pose": pictures(14), "steps": 3}
        render(animator, **options)
        passes = [
            animator.session.engine(name).runs for name in ("reference_net", "vae_encoder", "image_encoder")
        ]
        assert passes == [1, 1, 1]
        assert animator.session.engine("denoising_unet").runs == 3 * len(uniform(14, 6, 4))
        render(animator, **options)
        assert animator.session.engine("reference_net").runs == 1
        render(animator, reference=pictures(1, 10)[0], **options)
        assert animator.session.engine("reference_net").runs == 2


@pytest.mark.parametrize("guided", [True, False])
def test_a_clip_shorter_than_the_window_is_exact(
    small: Any, small_animator: Animator, run_engine: Any, guided: bool
) -> None:
    """The engine for 6 frames, given 3, equals the PyTorch network on those 3 alone."""
    import torch
    from animate_rt.export import load_checkpoint
    from animate_rt.export.graphs import graph_modules

    chance = np.random.default_rng(0)
    graph = "denoising_unet" if guided else "denoising_unet_conditional"
    engine = small_animator.session.engine(graph)
    inputs = {spec.name: chance.standard_normal(spec.shape, np.float32) for spec in engine.contract.inputs}
    inputs |= {"num_frames": np.array([3], np.int32), "guidance_scale": np.array([3.5], np.float32)}
    arguments = {spec.name: inputs[spec.name] for spec in engine.contract.inputs}
    found = run_engine(engine, **arguments)["prediction"][:3]

    inputs |= {name: inputs[name][:3] for name in ("latents", "pose_features")}
    module = graph_modules(load_checkpoint(small.checkpoint, small.inference_config))[graph]
    with torch.no_grad():
        tensors = [torch.from_numpy(inputs[spec.name]) for spec in engine.contract.inputs]
        expected = module(*tensors).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert len(render(small_animator, pose=pictures(3), guidance_scale=3.5 if guided else 1.0)) == 3


def test_guidance_1_is_the_conditional_prediction_and_averages_overlaps(small_animator: Animator) -> None:
    """The frames are close to those of a scale just above 1, which runs the guided engine. (At scale 1 the
    public code sums overlaps and does not average them.)"""
    options = {"pose": pictures(10), "overlap": 2}
    conditional = render(small_animator, guidance_scale=1.0, **options)
    guided = render(small_animator, guidance_scale=1.0 + 1e-6, **options)
    assert np.abs(conditional.astype(int) - guided).max() <= 1
    assert small_animator.session.engine("denoising_unet_conditional").runs > 0


def test_guidance_in_part_of_the_schedule(small_bundle: Path) -> None:
    """Steps outside the interval run the UNet without its unconditional half."""
    ran: list[str] = []

    def note(operation: Operation) -> None:
        if operation.name.startswith("denoising_unet"):
            ran.append(operation.name)

    with Animator.load(small_bundle, observe=note) as animator:
        whole, none = render(animator, steps=4), render(animator, steps=4, guidance_scale=1)
        for interval, guided in (((0, 1), 4), ((0.5, 0.75), 1), ((0, 0.5), 2), ((0.3, 0.3), 0)):
            ran.clear()
            frames = render(animator, steps=4, guidance_interval=interval)
            assert ran.count("denoising_unet") * 4 == guided * len(ran)
            assert np.array_equal(frames, whole) == (guided == 4)
            assert np.array_equal(frames, none) == (guided == 0)


def test_sampling_defaults_come_from_the_bundle(small_bundle: Path) -> None:
    opened = open_bundle(small_bundle)
    sampling = SamplingConfig(timesteps=(999, 600), guidance_scale=1)
    model = dataclasses.replace(opened.manifest.model, sampling=sampling)
    manifest = dataclasses.replace(opened.manifest, model=model)
    with Animator(dataclasses.replace(opened, manifest=manifest)) as animator:
        frames = render(animator, steps=None)
        assert "denoising_unet" not in animator.session.engines
        assert np.array_equal(frames, render(animator, steps=(999, 600), guidance_scale=1))
        assert not np.array_equal(frames, render(animator, steps=2))
        assert not np.array_equal(frames, render(animator, steps=None, guidance_scale=3.5))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(small_animator: Animator) -> None:
    first = render(small_animator)
    assert np.array_equal(first, render(small_animator))
    assert not np.array_equal(first, render(small_animator, seed=1))


def test_window_policies_differ_only_where_their_windows_do(small_animator: Animator) -> None:
    assert uniform(6, 6, 2) == list(open_ended(KnownLength(6), 6, 2))
    for frames, equal in ((6, True), (9, False)):
        found = [render(small_animator, pose=pictures(frames), windows=name) for name in ("uniform", "open")]
        assert np.array_equal(*found) == equal


def test_clips_in_several_threads_do_not_mix(small_animator: Animator) -> None:
    jobs = [{"seed": 1}, {"seed": 2, "pose": pictures(9, 3)}, {"reference": pictures(1, 4)[0]}]
    alone = [render(small_animator, **job) for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(lambda job: render(small_animator, **job), jobs))
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a, b)


def test_frames_arrive_one_by_one_and_a_clip_can_be_abandoned(small_animator: Animator) -> None:
    decoder = small_animator.session.engine("vae_decoder")
    before = decoder.runs
    clip = small_animator.animate(pictures(1)[0], pictures(8), steps=1)
    frame = next(clip)
    assert frame.shape == (96, 64, 3)
    assert frame.dtype == np.uint8
    clip.close()
    assert decoder.runs == before + 1


def test_yielded_frames_belong_to_the_caller(small_animator: Animator) -> None:
    frames = small_animator.animate(pictures(1)[0], pictures(3), steps=1)
    first = next(frames)
    kept = first.copy()
    next(frames)
    assert np.array_equal(first, kept)


def test_progress_counts_every_window_and_frame(small_animator: Animator) -> None:
    seen: list[Progress] = []
    render(small_animator, pose=pictures(10), overlap=2, progress=seen.append)
    assert seen[-1] == Progress("decode", 10, 10)
    windows = 2 * len(uniform(10, 6, 2))
    assert [p for p in seen if p.stage == "denoise"] == [
        Progress("denoise", i, windows) for i in range(windows + 1)
    ]


def test_pictures_of_any_kind_and_size(small_animator: Animator, tmp_path: Path) -> None:
    """A path, an image and an array of one picture give the same frames; other sizes are resized."""
    array = np.random.default_rng(2).integers(0, 256, (131, 77, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "reference.png")
    given = [array, Image.fromarray(array), tmp_path / "reference.png", str(tmp_path / "reference.png")]
    found = [render(small_animator, reference=picture, pose=[array] * 2) for picture in given]
    assert found[0].shape == (2, 96, 64, 3)
    assert all(np.array_equal(found[0], other) for other in found)


def test_the_option_frames_limits_the_clip(small_animator: Animator) -> None:
    assert len(render(small_animator, pose=pictures(9), frames=4)) == 4
    assert len(render(small_animator, pose=iter(pictures(3)), frames=4)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected 1 to 100000 steps, or descending timesteps .*, found 0"),
        ({"steps": 1001}, "steps: expected 1 to 1000, found 1001"),
        ({"guidance_scale": math.nan}, "guidance_scale: expected 1"),
        ({"guidance_scale": math.inf}, "guidance_scale: expected 1"),
        ({"guidance_scale": 0.5}, "guidance_scale: expected 1"),
        ({"overlap": 6}, "overlap: expected 0 to 5 frames"),
        ({"overlap": -1}, "overlap: expected a whole number of at least 0"),
        ({"windows": "round"}, "windows: expected one of uniform, open"),
        ({"order": "random"}, "order: expected one of step-major, time-skewed"),
        ({"order": "time-skewed"}, "order time-skewed: expected open windows, found uniform"),
        ({"seed": -1}, "seed: expected"),
        ({"frames": 0}, "frames: expected a whole number of at least 1"),
    ],
)
def test_options_are_checked_before_anything_runs(
    small_animator: Animator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        small_animator.animate(pictures(1)[0], pictures(2), **options)


def test_files_are_checked_before_anything_runs(small_animator: Animator, tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        small_animator.animate(tmp_path / "none.png", pictures(2))
    with pytest.raises(InputError):
        small_animator.animate(pictures(1)[0], tmp_path)
    with pytest.raises(InputMissing):
        small_animator.animate(pictures(1)[0], pictures(2), initial_noise=tmp_path / "none.npy")


def test_an_empty_pose_sequence_is_refused(small_animator: Animator) -> None:
    with pytest.raises(InputError, match="at least one"):
        list(small_animator.animate(pictures(1)[0], []))


def test_noise_for_another_number_of_frames_is_refused(small: Any, small_animator: Animator) -> None:
    options: dict[str, Any] = {"reference": pictures(1)[0], "initial_noise": small.initial_noise}
    with pytest.raises(InputError, match="expected as many frames as poses, found 10 for 3"):
        small_animator.animate(pose=pictures(3), **options)  # a list has a known length
    clip = small_animator.animate(pose=iter(pictures(3)), **options)
    with pytest.raises(InputError, match="expected as many frames as poses, found 10 for 3"):
        next(clip)


def test_a_closed_animator_refuses_clips_and_drops_its_engines(small_bundle: Path) -> None:
    with Animator.load(small_bundle) as animator:
        running = animator.animate(pictures(1)[0], pictures(2), steps=1)
        next(running)
    assert not animator.session.engines
    with pytest.raises(Rejected, match="found it closed"):
        animator.animate(pictures(1)[0], pictures(2))
    abandoned = Animator.load(small_bundle)
    waiting = abandoned.animate(pictures(1)[0], pictures(2))
    abandoned.close()
    with pytest.raises(Rejected, match="found it closed"):
        next(waiting)


def test_a_unet_variant_that_is_loaded_later_is_verified_again(small_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "bundle")
    with Animator.load(copy) as animator:
        render(animator, guidance_scale=2.0)
        with (copy / "graphs" / "weights.bin").open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")
        with pytest.raises(BundleCorrupt):
            render(animator, guidance_scale=1.0)


def test_latents_that_overflow_are_an_error_and_not_a_black_video(small_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.full((1, 4, 2, 12, 8), 3e38, np.float32))
    with Animator.load(small_bundle) as animator, pytest.raises(DeviceError, match="finite latents"):
        render(animator, pose=pictures(2), initial_noise=tmp_path / "noise.npy")


def test_pytorch_engines_give_almost_the_same_frames(small: Any, small_animator: Animator) -> None:
    """PyTorch modules as engines, on the same streams and buffers."""
    from animate_rt.benchmarks.baselines.torch_engine import torch_engines

    expected = render(small_animator)
    load = torch_engines(small.checkpoint, small.inference_config)
    with Animator(small_animator.bundle, load=load) as animator:
        assert psnr(render(animator) / 255, expected / 255) >= 55
