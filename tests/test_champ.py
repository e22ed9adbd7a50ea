"""Champ: its checkpoint, every recorded boundary of its public code, and its clips."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt import Animator, ConfigError, InputError
from animate_rt.engines.contract import ShapeBucket
from animate_rt.errors import CheckpointError
from animate_rt.export.checkpoints.checkpoint import load_checkpoint
from animate_rt.export.graphs import graph_modules
from animate_rt.runtime.clip.layout import Layout
from animate_rt.runtime.clip.order import step_major
from animate_rt.runtime.clip.tracks import join
from animate_rt.runtime.clip.windows import uniform
from animate_rt.runtime.media.pose_sequence import PoseSequence, open_pose
from animate_rt.runtime.streams.operations import Operation
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from .conftest import Case

TRACKS = ("depth", "dwpose")
TOLERANCE = 1e-5  # relative to the largest value; the recorded run used other batches


@pytest.fixture(scope="module")
def checkpoint(champ: Case) -> Any:
    return load_checkpoint(champ.checkpoint, champ.inference_config, base=champ.base)


@pytest.fixture(scope="module")
def io(champ: Case) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in champ.io.items()}


@pytest.fixture(scope="module")
def bundle(champ: Case, bundles: Any) -> Path:
    path: Path = bundles(champ)
    return path


@pytest.fixture(scope="module")
def animator(bundle: Path) -> Iterator[Animator]:
    with Animator.load(bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def frames(champ: Case, animator: Animator) -> NDArray[Any]:
    return np.stack(list(animator.animate(champ.reference, champ.pose, **champ.animate_options)))


@pytest.fixture(scope="module")
def size(champ: Case) -> ShapeBucket:
    return ShapeBucket(width=champ.width, height=champ.height, window=champ.window)


@pytest.fixture(scope="module")
def opened(champ: Case) -> dict[str, PoseSequence]:
    return {name: open_pose(path, None) for name, path in champ.pose.items()}


@pytest.fixture(scope="module")
def pose_frames(opened: dict[str, PoseSequence], checkpoint: Any, size: ShapeBucket) -> Tensor:
    """uint8 (frames, H, 2W, 3), both tracks side by side."""
    joined = join(opened, checkpoint.config, size)
    return torch.from_numpy(np.stack([np.array(picture) for picture in joined]))


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_the_checkpoint_says_that_it_is_champ(checkpoint: Any) -> None:
    config = checkpoint.config
    assert config.member == "champ"
    assert config.pose_tracks == TRACKS
    assert config.noise.rescale_betas_zero_snr
    assert config.noise.prediction_type == "v_prediction"
    assert (config.sampling.steps, config.sampling.guidance_scale) == (4, 3.5)


def test_pictures_are_resized_as_the_public_code_does(pose_frames: Tensor, io: dict[str, Tensor]) -> None:
    first = pose_frames[0].permute(2, 0, 1) / 255
    for track, picture in zip(TRACKS, first.chunk(2, dim=2), strict=True):
        assert_close(picture, io[f"guidance_input/{track}.frame0"][0, :, 0])


@torch.no_grad()
def test_guidance_encoders(pose_frames: Tensor, checkpoint: Any, io: dict[str, Tensor]) -> None:
    pictures = (pose_frames.permute(0, 3, 1, 2) / 255).chunk(2, dim=3)
    for track, encoder, picture in zip(TRACKS, checkpoint.pose_guider.encoders, pictures, strict=True):
        attended = encoder.attended(io[f"guidance_attention_input/{track}.frame0"][:, :, 0])
        assert_close(attended, io[f"guidance_attention_output/{track}.frame0"][:, :, 0])
        assert_close(encoder(picture), io[f"guidance_features/{track}"][0].transpose(0, 1))
    graph = graph_modules(checkpoint)["pose_guider"]
    assert_close(graph(pose_frames), io["guidance_features_sum"][0].transpose(0, 1))


@torch.no_grad()
def test_the_other_networks_are_those_of_moore(checkpoint: Any, io: dict[str, Tensor]) -> None:
    assert_close(checkpoint.image_encoder(io["clip_pixels"]), io["image_embeds"])
    net, unet = checkpoint.reference_net, checkpoint.denoising_unet
    features = net(io["reference_latents"], io["image_embeds"])
    paths = {module: name for name, module in net.named_modules()}
    blocks = [layer.attention.block for layer in net.layers() if layer.attention is not None]
    assert len(blocks) == sum(name.startswith("reference_features/") for name in io)
    for block, feature in zip(blocks, features, strict=True):
        assert_close(feature, io[f"reference_features/{paths[block]}"])
    unconditional, conditional = (row.transpose(0, 1) for row in io["unet_output/0"])
    found = unet(
        io["unet_sample"][0].transpose(0, 1),
        torch.tensor([4], dtype=torch.int32),
        unet.time_row(io["unet_timestep"].float()),
        io["unet_guidance"][0].transpose(0, 1),
        unet.project_reference(features, io["image_embeds"]),
        torch.tensor([3.5]),
    )
    assert_close(found, unconditional + 3.5 * (conditional - unconditional))


@torch.no_grad()
def test_frames_leave_the_decoder_unrounded(checkpoint: Any, io: dict[str, Tensor]) -> None:
    frames = graph_modules(checkpoint)["vae_decoder"](io["final_latents"][0].transpose(0, 1))
    assert frames.dtype == torch.float32
    assert_close(frames / 255, io["video"][0].permute(1, 2, 3, 0))


def test_frames_of_the_public_implementation(
    champ: Case, frames: NDArray[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """They have the reference's size, and are at least 58 dB from the recorded ones."""
    expected = champ.io["video_resized.first_last"][0].transpose(1, 2, 3, 0)
    assert frames.shape[1:] == expected.shape[1:] == (104, 72, 3)
    decibels = -10 * math.log10(np.mean((frames[[0, -1]] / 255 - expected) ** 2))
    with capsys.disabled():
        print(f"\nchamp-two: float32 against the public implementation: {decibels:.1f} dB")
    assert decibels >= 58


def test_every_prediction_and_every_step(champ: Case, bundle: Path) -> None:
    """Within a thousandth of the largest value; predictions after guidance."""
    tasks = step_major(layout := Layout(uniform(champ.frames, champ.window, champ.overlap)), champ.steps)
    predictions: list[float] = []
    num_latents = 0

    def compare(operation: Operation) -> None:
        nonlocal num_latents
        if operation.name != "update":
            return
        window, step = next(tasks)
        assert operation.ended is not None
        operation.ended.synchronize()
        unconditional, conditional = champ.io[f"unet_output/{len(predictions)}"].swapaxes(1, 2)
        guided = unconditional + champ.guidance_scale * (conditional - unconditional)
        found = next(
            buffer.owner.array for buffer in operation.reads if len(buffer.owner.array) == len(guided)
        )
        predictions.append(np.abs(found - guided).max() / np.abs(guided).max())
        expected = champ.io[f"latents_after_step/{step}"][0].swapaxes(0, 1)
        written = iter(operation.writes)
        for segment, _ in layout.places(window):
            if segment.windows[-1] == window:
                truth = expected[segment.frames.start : segment.frames.stop]
                assert np.abs(next(written).array - truth).max() <= 1e-3 * np.abs(expected).max()
                num_latents += len(segment.frames)
            if len(segment.windows) > 1:
                next(written)

    with Animator.load(bundle, observe=compare) as animator:
        list(animator.animate(champ.reference, champ.pose, **champ.animate_options))
    assert len(predictions) == 8
    assert max(predictions) <= 1e-3
    assert num_latents == champ.frames * champ.steps


def test_the_reference_is_computed_once(champ: Case, bundle: Path) -> None:
    runs: list[str] = []
    with Animator.load(bundle, observe=lambda operation: runs.append(operation.name)) as animator:
        for _ in range(2):
            list(animator.animate(champ.reference, champ.pose, steps=2))
    assert runs.count("reference_net") == 1
    assert runs.count("pose_guider") == 2 * champ.frames


def test_both_orders_and_several_streams_give_the_same_frames(champ: Case, bundle: Path) -> None:
    found = []
    for order, streams in (("step-major", 1), ("time-skewed", 1), ("time-skewed", 3)):
        with Animator.load(bundle, denoise_streams=streams) as animator:
            clip = animator.animate(champ.reference, champ.pose, steps=3, order=order, windows="open")
            found.append(np.stack(list(clip)))
    assert all(np.array_equal(found[0], other) for other in found)


def test_tracks_are_given_by_name_in_any_order(champ: Case, animator: Animator, frames: NDArray[Any]) -> None:
    swapped = {name: champ.pose[name] for name in reversed(TRACKS)}
    again = np.stack(list(animator.animate(champ.reference, swapped, **champ.animate_options)))
    assert np.array_equal(frames, again)


@pytest.mark.parametrize(
    ("pose", "found"),
    [
        (lambda pose: pose["depth"], "one pose sequence"),
        (lambda pose: {"depth": pose["depth"]}, "the tracks depth"),
        (lambda pose: pose | {"normal": pose["depth"]}, "normal"),
        (lambda _pose: {}, "one pose sequence"),
    ],
)
def test_other_tracks_are_refused(champ: Case, animator: Animator, pose: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"expected the tracks depth, dwpose, found.*{found}"):
        animator.animate(champ.reference, pose(champ.pose))


def test_tracks_are_refused_by_a_model_with_one_sequence(small_bundle: Path, small: Case) -> None:
    poses = {"depth": small.pose, "dwpose": small.pose}
    with (
        Animator.load(small_bundle) as animator,
        pytest.raises(ConfigError, match="one pose sequence, found"),
    ):
        animator.animate(small.reference, poses)


def test_tracks_of_different_lengths_are_refused(champ: Case, animator: Animator) -> None:
    shorter = {name: sorted(path.iterdir())[: 6 - (name == "depth")] for name, path in champ.pose.items()}
    with pytest.raises(InputError, match="tracks of one length, found 5 frames in depth and more in dwpose"):
        list(animator.animate(champ.reference, shorter))


def test_tracks_of_different_rates_are_refused(
    opened: dict[str, PoseSequence], checkpoint: Any, size: ShapeBucket
) -> None:
    rated = {name: replace(each, frame_rate=Fraction(24 + len(name))) for name, each in opened.items()}
    with pytest.raises(InputError, match="one frame rate, found depth with 29, dwpose with 30"):
        join(rated, checkpoint.config, size)


def test_all_four_tracks_are_needed_unless_the_settings_name_others(champ: Case, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected guidance_encoder_normal"):
        load_checkpoint(champ.checkpoint, base=champ.base)
    settings = tmp_path / "inference.yaml"
    settings.write_text(champ.inference_config.read_text().replace("- dwpose", "- dance"))
    with pytest.raises(CheckpointError, match=r"guidance_types.*dance"):
        load_checkpoint(champ.checkpoint, settings, base=champ.base)


def test_without_zero_snr_the_noise_schedule_is_another(champ: Case, tmp_path: Path) -> None:
    settings = tmp_path / "inference.yaml"
    text = champ.inference_config.read_text()
    settings.write_text(text.replace("enable_zero_snr: true", "enable_zero_snr: false"))
    noise = load_checkpoint(champ.checkpoint, settings, base=champ.base).config.noise
    assert (noise.prediction_type, noise.timestep_spacing) == ("epsilon", "leading")
    assert not noise.rescale_betas_zero_snr
    assert noise.steps_offset == 1


def test_keys_of_a_guidance_encoder_are_strict(champ: Case, tmp_path: Path) -> None:
    """Attentions that the public code never runs may be there or not; others may not be missing or added."""
    folder = Path(shutil.copytree(champ.checkpoint, tmp_path / "checkpoint"))
    file = folder / "champ" / "guidance_encoder_depth.pth"
    state = torch.load(file, weights_only=True)
    file.unlink()
    file = file.with_suffix(".safetensors")
    used = {k: value for k, value in state.items() if not k.startswith(("attentions.0", "guidance_att"))}
    save_file(used, file)
    load_checkpoint(folder, champ.inference_config, base=champ.base)
    save_file(load_file(file) | {"attentions.6.norm.weight": torch.zeros(64)}, file)
    with pytest.raises(CheckpointError, match=r"unexpected: attentions\.6\.norm\.weight"):
        load_checkpoint(folder, champ.inference_config, base=champ.base)
    save_file({key: value for key, value in used.items() if key != "attentions.5.norm.bias"}, file)
    with pytest.raises(CheckpointError, match=r"missing: attentions\.5\.norm\.bias"):
        load_checkpoint(folder, champ.inference_config, base=champ.base)


@pytest.mark.parametrize(
    ("instead_of", "file", "title"),
    [
        ("pose_guider.pth", "face_locator.pth", "EchoMimic"),
        ("motion_module.pth", "temporal_module.pth", "PersonaLive"),
    ],
)
def test_other_projects_are_named(
    small: Case, tmp_path: Path, instead_of: str, file: str, title: str
) -> None:
    folder = Path(shutil.copytree(small.checkpoint, tmp_path / "checkpoint"))
    (folder / instead_of).rename(folder / file)
    with pytest.raises(CheckpointError, match=f"found {title}'s {file}; {title} is not supported"):
        load_checkpoint(folder)


def test_guiders_of_two_models_in_one_folder_are_refused(small: Case, champ: Case, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small.checkpoint, tmp_path / "checkpoint"))
    shutil.copy(champ.checkpoint / "champ" / "guidance_encoder_depth.pth", folder)
    with pytest.raises(CheckpointError, match="expected the guiders of one model"):
        load_checkpoint(folder)
