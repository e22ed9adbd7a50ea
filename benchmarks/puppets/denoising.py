"""The stages on latents: single frames, then the motion modules alone, as in the paper; then few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...export.vae import VAE
from ...runtime.sampler import alphas_cumprod, ddim
from .autoencoder import decode, encoder
from .dataset import FRAMES, Clips, Dataset, make_clips
from .drawing import Array
from .model import SIZE, SmallModel, predict, small_config
from .skeleton import draw_skeleton
from .stage import (
    HELD_OUT,
    Figures,
    Iteration,
    Rng,
    Stage,
    autocast,
    beside,
    change,
    noise,
    outcome,
    psnr,
    to_pictures,
    to_tensor,
)
from .world import Picture, Scene

DROPPED = 0.1  # share of batches that never see the reference, for guidance
FEW_STEPS = (4, 5, 6)


class Denoising(Stage):
    """What the stages on latents share: clips, noise, the loss of a velocity, and samples to look at."""

    network: SmallModel
    frames = FRAMES
    watched_frames = FRAMES
    motion = True

    def __init__(self, folder: Path, vae: VAE):
        self.vae = vae
        self.dataset = Dataset(folder / "clips")
        self.network = SmallModel()
        self.schedule = torch.tensor(alphas_cumprod(small_config().noise), dtype=torch.float32)
        self.watched = Watched(vae, self.watched_frames)

    def velocity_loss(self, clips: Clips, now: Iteration) -> Tensor:
        """Clips (n,) at random noise levels, against the true velocity."""
        rng = now.rng
        latents, poses, reference, images = tensors(clips, self.chosen(clips, rng))
        timesteps = self.timesteps(len(clips), rng)
        alpha = self.schedule[timesteps][:, None, None, None]
        epsilon = noise(rng, latents.shape)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * epsilon
        velocity = alpha.sqrt() * epsilon - (1 - alpha).sqrt() * latents
        with autocast():
            dropped = now.shared.random() < DROPPED
            predicted = self.network(
                noisy,
                timesteps.float(),
                poses,
                None if dropped else reference,
                images,
                self.frames,
                motion=self.motion,
            )
        return F.mse_loss(predicted, velocity)

    def chosen(self, clips: Clips, _rng: Rng) -> Array:
        """Which frames of each clip, (n, frames)."""
        return np.tile(np.arange(self.frames), (len(clips), 1))

    def timesteps(self, clips: int, rng: Rng) -> Tensor:
        """One for each frame (clips * frames,), the same for all frames of a clip."""
        return noisy_timesteps(len(self.schedule), clips, rng).repeat_interleave(self.frames)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        """Five steps without guidance."""
        assert isinstance(network, SmallModel)
        watched = self.watched
        poses, reference, images = watched.conditions
        sampled = sample(
            network,
            watched.latents.shape,
            poses,
            reference,
            images,
            watched.frames,
            motion=self.motion,
            steps=5,
        )
        return watched.figures(sampled, decode(self.vae, sampled))


class SingleFrames(Denoising):
    """ReferenceNet, Pose Guider, image encoder and the spatial half of the denoising UNet."""

    name, iterations, rate, batch = "frames", 2_300, 6e-4, 4
    # Several of a clip, at noise levels of their own, for one pass through ReferenceNet.
    frames, watched_frames, motion = 3, 1, False

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        for module in self.network.temporal():
            module.requires_grad_(False)
        # As convolutions compute. Not in the stages after it: on CPUs torch 2.13 crashes in the gradient of a
        # group normalisation in this layout whose weights are frozen. (Its overloads lack the argument.)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, now: Iteration) -> Tensor:
        return self.velocity_loss(self.dataset.draw(now.rng, self.batch), now)

    def chosen(self, clips: Clips, rng: Rng) -> Array:
        return rng.integers(FRAMES, size=(len(clips), self.frames))

    def timesteps(self, clips: int, rng: Rng) -> Tensor:
        return noisy_timesteps(len(self.schedule), clips * self.frames, rng)


class Motion(Denoising):
    """The motion modules alone, on clips."""

    name, iterations, rate, batch = "motion", 1_200, 4e-4, 1

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        self.network.load_state_dict(outcome(folder, "frames"))
        self.network.requires_grad_(False)
        for module in self.network.temporal():
            module.requires_grad_(True)

    def loss(self, now: Iteration) -> Tensor:
        return self.velocity_loss(self.dataset.draw(now.rng, self.batch), now)


class FewSteps(Denoising):
    """The spatial half of the denoising UNet once more, for a handful of steps without guidance: it learns to
    hit the true latents from where its own steps have led it."""

    name, iterations, rate, batch = "few-steps", 800, 1e-4, 1

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        self.network.load_state_dict(outcome(folder, "motion"))
        self.network.requires_grad_(False)
        self.network.denoising_unet.requires_grad_(True)
        # The reference's keys and values and all else but the denoising UNet are shared with the other set.
        for module in self.network.temporal():
            module.requires_grad_(False)

    def loss(self, now: Iteration) -> Tensor:
        _, shared, rng = now
        clips = self.dataset.draw(rng, self.batch)
        latents, poses, reference, images = tensors(clips, self.chosen(clips, rng))
        steps = ddim(small_config().noise, int(shared.choice(FEW_STEPS)))
        last = int(shared.integers(len(steps)))
        unet = self.network.denoising_unet
        with torch.no_grad(), autocast():
            embeds = self.network.embed(images)
            features = self.network.reference_net(reference, embeds)
            pose_features = self.network.pose_guider(poses)

        def velocity(noisy: Tensor, timestep: int) -> Tensor:
            times = torch.full((len(noisy),), float(timestep))
            with autocast():
                references = unet.project_reference(features, embeds)
                return predict(
                    unet, noisy, times, pose_features, references, embeds, self.frames, motion=True
                )

        noisy = noise(rng, latents.shape)
        with torch.no_grad():
            for step in steps[:last]:
                noisy = step.latents * noisy + step.prediction * velocity(noisy, step.timestep)
        alpha = float(self.schedule[steps[last].timestep])
        target = (alpha**0.5 * noisy - latents) / (1 - alpha) ** 0.5
        return F.mse_loss(velocity(noisy, steps[last].timestep), target)


class Watched:
    """Held-out scenes to look at while training: a frame of each, or whole clips of a few."""

    @torch.no_grad()
    def __init__(self, vae: VAE, frames: int):
        self.frames = frames
        count = HELD_OUT if frames == 1 else HELD_OUT // 4
        clips = make_clips("held-out", range(count), encoder(vae))
        self.latents, *self.conditions = tensors(clips, np.tile(np.arange(frames), (count, 1)))
        poses, reference, _ = self.conditions
        copied = decode(vae, reference).repeat_interleave(frames, dim=0)
        scenes = [Scene("held-out", seed, SIZE) for seed in range(count)]
        self.true = to_tensor(np.stack([scene.frame(i) for scene in scenes for i in range(frames)]))
        self.floors = {
            "psnr_of_autoencoder": psnr(decode(vae, self.latents), self.true),
            "psnr_of_reference": psnr(copied, self.true),
        }
        self.above = [copied, poses]

    def figures(self, latents: Tensor, made: Tensor) -> tuple[Figures, Picture]:
        """Rows of the picture: reference, pose, made, true."""
        figures = {"psnr": psnr(made, self.true), "latent_mse": float(F.mse_loss(latents, self.latents))}
        if self.frames > 1:
            figures["flicker"] = change(made, self.frames) / change(self.true, self.frames)
        rows = [beside(to_pictures(row[:HELD_OUT])) for row in (*self.above, made, self.true)]
        return figures | self.floors, np.concatenate(rows)


def sample(
    network: SmallModel,
    shape: Any,
    poses: Tensor,
    reference: Tensor,
    images: Tensor,
    frames: int,
    *,
    motion: bool,
    steps: int,
) -> Tensor:
    """Latents by DDIM without guidance."""
    latents = noise(np.random.default_rng(0), shape)
    for step in ddim(small_config().noise, steps):
        with autocast():
            timesteps = torch.full((len(latents),), float(step.timestep))
            prediction = network(latents, timesteps, poses, reference, images, frames, motion=motion)
        latents = step.latents * latents + step.prediction * prediction
    return latents


def noisy_timesteps(num_timesteps: int, count: int, rng: Rng) -> Tensor:
    """Random ones (count,), in proportion to how late they are: there reference and pose decide, while at low
    noise the latents themselves tell most of it."""
    return torch.tensor((num_timesteps * rng.random(count) ** 0.5).astype(int))


def tensors(clips: Clips, chosen: Array) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents and poses of the chosen frames (n, frames) of each clip, both (n * frames, ...), and references
    and their images (n, ...)."""
    rows = np.arange(len(clips))[:, None]
    keypoints = clips["keypoints"][rows, chosen].reshape(-1, 18, 3)
    latents = clips["latents"][rows, chosen]
    return (
        torch.tensor(latents.reshape(-1, *latents.shape[2:])).float(),
        to_tensor(np.stack([draw_skeleton(points, SIZE) for points in keypoints])),
        torch.tensor(clips["reference"]).float(),
        to_tensor(clips["image"]),
    )
