"""The model of the puppets, and its training."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt.benchmarks.puppets.training import (
    autoencoder,
    dataset,
    decoder,
    denoising,
    few_steps,
    stage,
    train,
    watched,
)
from animate_rt.benchmarks.puppets.training.model import LATENT_CHANNELS as CHANNELS
from animate_rt.benchmarks.puppets.training.model import (
    SIZE,
    WEIGHTS,
    SmallModel,
    read_checkpoint,
    small_config,
    write_checkpoint,
)
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.engines.model import SamplingConfig
from animate_rt.errors import CheckpointError
from animate_rt.export import load_checkpoint
from animate_rt.export.networks.vae import VAE

# The model


@pytest.fixture(scope="module")
def model() -> SmallModel:
    torch.manual_seed(0)
    model = SmallModel()
    for layer in (model.pose_guider.conv_out, *(module.proj_out for module in model.temporal())):
        torch.nn.init.normal_(layer.weight, std=0.1)  # they start at zero and would have no effect
    return model


@torch.no_grad()
def test_the_training_model_predicts_as_the_exported_network(model: SmallModel) -> None:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    frames, clips = 5, 2
    latents, reference = normal(clips * frames, CHANNELS, 8, 8), normal(clips, CHANNELS, 8, 8)
    poses, images = normal(clips * frames, 3, 64, 64).sigmoid(), normal(clips, 3, 64, 64).sigmoid()
    timesteps = torch.tensor([999.0, 140.0])
    each = timesteps.repeat_interleave(frames)
    together = model(latents, each, poses, reference, images, frames, motion=True)
    unconditional = model(latents, each, poses, None, images, frames, motion=True)
    unet, scale = model.denoising_unet, torch.tensor([2.5])
    for clip in range(clips):
        rows = slice(clip * frames, (clip + 1) * frames)
        embeds = model.embed(images[clip : clip + 1])
        references = unet.project_reference(model.reference_net(reference[clip : clip + 1], embeds), embeds)
        inputs: Any = (
            latents[rows],
            torch.tensor([frames], dtype=torch.int32),
            unet.time_row(timesteps[clip : clip + 1]),
            model.pose_guider(poses[rows]),
            references,
        )
        torch.testing.assert_close(together[rows], unet(*inputs), rtol=1e-3, atol=1e-4)
        guided = unconditional[rows] + scale * (together[rows] - unconditional[rows])
        torch.testing.assert_close(guided, unet(*inputs, scale), rtol=1e-3, atol=1e-4)


def test_every_weight_with_an_effect_gets_a_gradient(model: SmallModel) -> None:
    latents, timesteps = torch.randn(4, CHANNELS, 8, 8), torch.tensor([9.0, 500.0, 0.0, 999.0])
    reference, images = torch.randn(2, CHANNELS, 8, 8), torch.rand(2, 3, 64, 64)
    model(latents, timesteps, torch.rand(4, 3, 64, 64), reference, images, 2, motion=True).sum().backward()
    silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    model.zero_grad()
    # With one context token these have no effect, nor has ReferenceNet after the last feature that is read.
    pointless = ("norm2", "attn2.to_q", "attn2.to_k", "reference_net.up_blocks.3.attentions.1.")
    assert {name for name in silent if not any(part in name for part in pointless)} == set()


def test_the_checkpoint_is_read_by_the_common_loader(model: SmallModel, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "small", model, VAE(small_config().vae), scaling_factor=1.25)
    loaded = load_checkpoint(tmp_path / "small")
    assert loaded.config.vae.scaling_factor == 1.25
    assert {
        width // heads
        for width, heads in zip(loaded.config.unet.widths, loaded.config.unet.heads, strict=True)
    } <= {16, 24}
    weight = loaded.denoising_unet.conv_in.weight
    torch.testing.assert_close(weight, model.denoising_unet.conv_in.weight, rtol=1e-3, atol=1e-3)


# Training


STAGES = (
    autoencoder.Autoencoder,
    decoder.Decoder,
    denoising.SingleFrames,
    denoising.Motion,
    denoising.Clips,
    few_steps.FewSteps,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 4 scenes, drawn in two parts."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "PART", 2)
        dataset.write_pictures(folder / "drawn", 4)
    return folder / "drawn"


@pytest.fixture
def world(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to train in, with small batches, and one thread so that sums have a fixed order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for module in (autoencoder, watched):
        monkeypatch.setattr(module, "HELD_OUT", 4)
    for kind in STAGES:
        monkeypatch.setattr(kind, "paces", {"cpu": stage.Pace(8, kind.paces["cpu"].rate, batch=4)})
    monkeypatch.setattr(train, "WARM_UP", 1)
    torch.manual_seed(0)
    (tmp_path / "drawn").symlink_to(drawn)
    yield tmp_path
    torch.set_num_threads(threads)


def test_pictures_are_drawn_once_and_do_not_depend_on_the_parts(drawn: Path) -> None:
    pictures, poses, image, weight = (np.load(drawn / f"{name}.npy") for name in dataset.Drawn._fields)
    whole = dataset.draw_clips(dataset.scenes_of(dataset.MIXED, range(4)))
    assert np.array_equal(pictures, whole.pictures)
    assert np.array_equal(poses, whole.poses)
    assert np.array_equal(image, whole.image)
    assert np.array_equal(weight, whole.weight)
    assert [path.name for path in drawn.parent.iterdir()] == ["drawn"]
    before = {path: path.stat().st_mtime_ns for path in drawn.iterdir()}
    dataset.write_pictures(drawn, 4)
    assert before == {path: path.stat().st_mtime_ns for path in drawn.iterdir()}


def test_training_lowers_the_loss(world: Path) -> None:
    run = train.Run(autoencoder.Autoencoder(world), world)

    def loss() -> float:
        now = stage.Iteration(0.0, np.random.default_rng(5), stage.generator(6))
        batch = run.stage.batch(now)
        return run.stage.loss(batch.form, *batch.tensors).item()

    before = loss()
    run.pace = run.pace._replace(iterations=16)
    for _ in range(16):
        run.step()
    assert loss() < 0.8 * before


def test_resumed_training_equals_uninterrupted_training(world: Path) -> None:
    for name in ("whole", "halves"):
        (world / name).mkdir()

    def trained(folder: Path, until: int) -> torch.nn.Module:
        torch.manual_seed(0)
        return train.train(autoencoder.Autoencoder(world), folder, until=until)

    whole = trained(world / "whole", 4)
    trained(world / "halves", 2)
    halves = trained(world / "halves", 4)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, halves.state_dict()[name]), name


def test_training_runs_all_stages(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One iteration of each, from pictures to two checkpoints that the loader reads."""
    for kind in STAGES:
        monkeypatch.setattr(kind, "paces", {"cpu": stage.Pace(1, 1e-4, batch=4)})
    train.work(0, 1, world)
    whole = load_checkpoint(world / "puppets")
    few = load_checkpoint(world / "puppets-few-steps", base=world / "puppets")
    assert few.config.sampling == SamplingConfig(steps=5, guidance_scale=1.0)
    changed = {name for name in whole.weights if whole.weights[name] != few.weights[name]}
    assert changed == {"denoising_unet.safetensors"}
    latents = np.load(world / "latents.npy")
    assert latents.shape == (4, *dataset.LATENTS_SHAPE)
    assert latents.any(axis=(2, 3, 4)).all()
    # A second run makes none of the files again.
    files = [*world.glob("*.pt"), *world.glob("*.npy"), *world.glob("puppets*/*")]
    before = {path: path.stat().st_mtime_ns for path in files}
    train.work(0, 1, world)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_half_of_the_scenes_are_soft_and_errors_in_faces_and_open_pixels_count_more(drawn: Path) -> None:
    scenes = dataset.scenes_of(dataset.MIXED, range(4))
    assert [scene.is_soft for scene in scenes] == [False, True, False, True]
    assert scenes[2].character == Scene("train", 1).character
    weights = np.load(drawn / "weight.npy") / dataset.UNIT
    for scene, weight in zip(scenes, weights[:, 5], strict=True):
        column, row = (scene.body(5).joints["head"][:2] * SIZE // 8).astype(int)
        assert weight[row, column] >= 1 + dataset.FACE * 0.9
        assert weight[0, 0] == 1  # a corner of the background
    elsewhere = [(weight > 1).sum() for weight in weights[:, 5]]
    assert min(elsewhere[1], elsewhere[3]) > 1.5 * max(elsewhere[0], elsewhere[2])


def test_training_goes_on_from_a_checkpoint(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0 iterations it writes the same weights; more iterations change those that they train."""
    for kind in STAGES:
        monkeypatch.setattr(kind, "paces", {"cpu": stage.Pace(1, 1e-3, batch=2)})
    plan = train.Plan(WEIGHTS, {"decoder": 0, "frames": 0, "motion": 1, "clips": 0, "few-steps": 0})
    train.work(0, 1, world, plan)
    assert not (world / "vae.pt").exists()
    before, after = load_checkpoint(WEIGHTS), load_checkpoint(world / "puppets")
    changed = {name for name in before.weights if before.weights[name] != after.weights[name]}
    assert changed == {"motion_module.safetensors"}
    for name in ("denoising_unet", "vae"):
        old, new = (getattr(checkpoint, name).state_dict() for checkpoint in (before, after))
        assert {key for key in old if not old[key].equal(new[key])} <= {
            key for key in old if "temporal_transformer" in key
        }


def test_clips_train_all_networks_and_single_frames_all_but_the_motion_modules(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, vae = read_checkpoint(WEIGHTS)
    dataset.write_latents(world, autoencoder.encoder(vae), 0, 1, lambda: None)
    torch.save(start.state_dict(), world / "motion.pt")
    run = train.Run(denoising.Clips(world, vae), world)
    temporal = [parameter for module in run.stage.network.temporal() for parameter in module.parameters()]
    rates = {group["fraction"]: len(group["params"]) for group in run.optimizer.param_groups}
    assert rates == {1.0: len(temporal), denoising.CONTINUED: len(run.trained) - len(temporal)}
    for alone in (1.0, 0.0):
        monkeypatch.setattr(denoising, "ALONE", alone)
        run.step()
        assert all((parameter.grad is None) == bool(alone) for parameter in temporal)
        assert run.stage.network.pose_guider.conv_in.weight.grad is not None


def test_the_decoder_is_trained_on_without_a_change_of_latents(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, vae = read_checkpoint(WEIGHTS)
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    dataset.write_latents(world, autoencoder.encoder(vae), 0, 1, lambda: None)
    for whole_from in (0.0, 1.0):
        monkeypatch.setattr(decoder.Decoder, "whole_from", whole_from)
        batch = decoder.Decoder(world, vae).batch(
            stage.Iteration(0.5, np.random.default_rng(0), stage.generator(0))
        )
        latents, pictures = batch.tensors
        with torch.no_grad():
            decoded = vae.decode(latents) / 2 + 0.5
        assert stage.psnr(decoded, stage.scaled(pictures)) > 20  # they belong together
    train.train(decoder.Decoder(world, vae), world, until=2)
    changed = {name for name, weight in vae.state_dict().items() if not weight.equal(before[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_contrast_sees_blur_and_not_small_displacements() -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).round()
    coarse = picture.repeat_interleave(4, 2).repeat_interleave(4, 3)
    blurred = torch.nn.functional.avg_pool2d(coarse, 5, 1, 2, count_include_pad=False)
    moved = coarse.roll(1, dims=3)
    true, *others = (decoder.contrast(each) for each in (coarse, blurred, moved))
    errors = [float((each - true).square().mean()) for each in others]
    assert errors[0] > 2 * errors[1]


def test_training_starts_only_from_networks_of_the_same_sizes(small: Any, world: Path) -> None:
    with pytest.raises(CheckpointError, match="expected networks of the same sizes as in weights/puppets"):
        train.work(0, 1, world, train.Plan(small.checkpoint))


def test_a_killed_run_resumes_from_a_whole_checkpoint(world: Path) -> None:
    """A process that writes a checkpoint after every iteration is killed at some moment, several times."""
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from animate_rt.benchmarks.puppets.training import autoencoder, train\n"
        "torch.set_num_threads(1); train.CHECKPOINT_S = 0\n"
        "train.train(autoencoder.Autoencoder(Path(sys.argv[1])), Path(sys.argv[1]), until=10_000)"
    )
    checkpoint, done = world / "vae-checkpoint.pt", []
    for more in (2, 3):
        process = subprocess.Popen([sys.executable, "-c", script, str(world)])
        seen = set[int]()
        while len(seen) < more:
            assert process.poll() is None
            time.sleep(0.05)
            if checkpoint.exists():
                seen.add(checkpoint.stat().st_mtime_ns)
        process.kill()
        process.wait()
        done.append(torch.load(checkpoint, weights_only=True)["iteration"])
    assert done[1] > done[0] >= 1
    run = train.Run(autoencoder.Autoencoder(world), world)
    assert run.done == done[1]
    run.step()
    run.save()
    assert {path.name for path in world.iterdir()} == {"drawn", checkpoint.name}


def test_workers_encode_the_latents_together(world: Path) -> None:
    """Two workers that encode parts of the pictures write the same file as one worker."""

    def encode(pictures: Any) -> Any:
        means = pictures.mean(axis=(1, 2, 3), dtype=np.float32)[:, None, None, None]
        return np.broadcast_to(means, (len(pictures), *dataset.LATENTS_SHAPE[1:]))

    (world / "alone").mkdir()
    (world / "alone" / "drawn").symlink_to(world / "drawn")
    dataset.write_latents(world / "alone", encode, 0, 1, lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "PART", 1)
        meeting = Barrier(2)
        threads = [
            Thread(target=dataset.write_latents, args=(world, encode, rank, 2, meeting.wait))
            for rank in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert np.array_equal(np.load(world / "latents.npy"), np.load(world / "alone" / "latents.npy"))


@torch.no_grad()
def test_folded_latents_have_unit_deviation(world: Path) -> None:
    vae = VAE(small_config().vae)
    torch.save(vae.state_dict(), world / "vae.pt")
    folded = autoencoder.finished_vae(world)
    measured = np.load(world / "drawn" / "pictures.npy")[:, 1]
    pictures = stage.to_tensor(measured) * 2 - 1
    latents = folded.encode(pictures)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.05
    torch.testing.assert_close(
        folded.decode(folded.encode(pictures)), vae.decode(vae.encode(pictures)), atol=1e-3, rtol=1e-3
    )
