"""The stages on latents: single frames, then only the motion modules, as in the paper; then few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....export.networks.vae import VAE
from ....runtime.clip.sampler import alphas_cumprod, ddim
from ..world.scene import Picture
from .autoencoder import decode, encoder
from .dataset import FRAMES, UNIT, WATCHED, draw_clips, mapped, scenes_of
from .model import SIZE, SmallModel, predict, small_config
from .stage import (
    HELD_OUT,
    Batch,
    Figures,
    Iteration,
    Pace,
    Stage,
    autocast,
    generator,
    psnr,
    scaled,
    side_by_side,
    to_pictures,
    to_tensor,
    trained_weights,
)

DROPPED = 0.1  # fraction of batches without the reference, for classifier-free guidance
FEW_STEPS = (4, 5, 6)
CONTINUED = 0.25  # of the learning rate, for weights that are trained already


class Denoising(Stage):
    """Base of the stages on latents: clips, noise, the velocity loss, and samples to inspect."""

    network: SmallModel
    frames = FRAMES
    watched_frames = FRAMES
    motion = True

    def __init__(self, folder: Path, vae: VAE):
        self.vae = vae
        names = ("latents.npy", "drawn/poses.npy", "drawn/image.npy", "drawn/weight.npy")
        self.latents, self.poses, self.images, self.weight = (mapped(folder / name) for name in names)
        self.network = SmallModel()
        self.schedule = torch.tensor(alphas_cumprod(small_config().noise), dtype=torch.float32)
        self.watched = Watched(vae, self.watched_frames)

    def clips(self, rng: torch.Generator) -> list[Tensor]:
        """Random clips: latents, weights of their errors and poses of the chosen frames (n * frames, ...),
        latents and images of the references (n, ...)."""
        clip = torch.randint(len(self.latents), (self.pace.batch,), generator=rng)
        rows, frame = clip[:, None], self.chosen(len(clip), rng)
        latents, weight = self.latents[rows, 1 + frame].float(), self.weight[rows, frame].float() / UNIT
        frames = [latents, weight[:, :, None], self.poses[rows, frame]]
        return [*(each.flatten(0, 1) for each in frames), self.latents[clip, 0].float(), self.images[clip]]

    def chosen(self, clips: int, _rng: torch.Generator) -> Tensor:
        """The frames to use of each clip, (clips, frames)."""
        return torch.arange(self.frames).expand(clips, -1)

    def timesteps(self, clips: int, rng: torch.Generator) -> Tensor:
        """A timestep per frame (clips * frames,), the same for all frames of a clip."""
        return noisy_timesteps(len(self.schedule), clips, rng).repeat_interleave(self.frames)

    def batch(self, now: Iteration) -> Batch:
        """Clips at random noise levels; some batches have no reference."""
        clips = self.clips(now.rng)
        timesteps = self.timesteps(self.pace.batch, now.rng)
        epsilon = torch.randn(clips[0].shape, generator=now.rng)
        dropped = bool(now.shared.random() < DROPPED)
        return Batch(dropped, [*clips, timesteps, epsilon])

    def loss(self, dropped: Any, *tensors: Tensor) -> Tensor:
        """Weighted mean squared error of the predicted velocity."""
        latents, weight, poses, reference, images, timesteps, epsilon = tensors
        alpha = self.schedule[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * epsilon
        velocity = alpha.sqrt() * epsilon - (1 - alpha).sqrt() * latents
        with autocast():
            predicted = self.network(
                noisy,
                timesteps.float(),
                scaled(poses),
                None if dropped else reference,
                scaled(images),
                self.frames,
                motion=self.motion,
            )
        return weighted_error(predicted, velocity, weight)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        """Sample the held-out scenes in five steps without guidance, clips also without motion modules."""
        assert isinstance(network, SmallModel)
        figures, picture = self.sampled(network, motion=self.motion)
        if self.motion:
            without, _ = self.sampled(network, motion=False)
            figures |= {f"{name}_without_motion": without[name] for name in ("psnr", "flicker")}
        return figures, picture

    def sampled(self, network: SmallModel, *, motion: bool) -> tuple[Figures, Picture]:
        watched = self.watched
        shape, frames = watched.latents.shape, watched.frames
        poses, reference, images = watched.conditions
        sampled = sample(network, shape, poses, reference, images, frames, motion=motion, steps=5)
        return watched.figures(sampled, decode(self.vae, sampled))


class SingleFrames(Denoising):
    """Trains ReferenceNet, Pose Guider, image encoder and the spatial half of the denoising UNet."""

    name = "frames"
    paces: ClassVar[dict[str, Pace]] = {
        "cpu": Pace(2_300, 6e-4, batch=4),
        "cuda": Pace(5_700, 8e-4, batch=48),
    }
    # Several frames of a clip, each at its own noise level, share one pass through ReferenceNet.
    frames, watched_frames, motion = 3, 1, False

    def __init__(self, folder: Path, vae: VAE, start: SmallModel | None = None):
        """`start` holds trained weights to go on from."""
        super().__init__(folder, vae)
        if start is not None:
            self.network = start
            self.pace = self.pace._replace(rate=CONTINUED * self.pace.rate)
        for module in self.network.temporal():
            module.requires_grad_(False)
        if torch.get_default_device().type == "cuda":
            return
        # The layout in which convolutions compute. Later stages cannot use it: on CPUs torch 2.13 crashes in
        # the gradient of a group normalisation with frozen weights in it. (The typed overloads of `to` lack
        # the argument.)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def chosen(self, clips: int, rng: torch.Generator) -> Tensor:
        return torch.randint(FRAMES, (clips, self.frames), generator=rng)

    def timesteps(self, clips: int, rng: torch.Generator) -> Tensor:
        return noisy_timesteps(len(self.schedule), clips * self.frames, rng)


class Motion(Denoising):
    """Trains only the motion modules, on clips."""

    name = "motion"
    paces: ClassVar[dict[str, Pace]] = {
        "cpu": Pace(1_200, 4e-4, batch=1),
        "cuda": Pace(1_200, 6e-4, batch=10),
    }

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        self.network.load_state_dict(trained_weights(folder, "frames"))
        self.network.requires_grad_(False)
        for module in self.network.temporal():
            module.requires_grad_(True)


class FewSteps(Denoising):
    """Trains the spatial half of the denoising UNet again, for 4 to 6 steps without guidance: from latents
    that its own steps have produced, it learns to predict the true latents."""

    name = "few-steps"
    paces: ClassVar[dict[str, Pace]] = {"cpu": Pace(800, 1e-4, batch=1), "cuda": Pace(1_300, 2e-4, batch=10)}

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        self.network.load_state_dict(trained_weights(folder, "motion"))
        self.network.requires_grad_(False)
        self.network.denoising_unet.requires_grad_(True)
        # Only the spatial half is written: the other weights are those of the set with guidance.
        for module in self.network.temporal():
            module.requires_grad_(False)

    def batch(self, now: Iteration) -> Batch:
        """Clips and noise. `form` is the number of steps and the index of the last one, which is trained."""
        steps = int(now.shared.choice(FEW_STEPS))
        clips = self.clips(now.rng)
        noise = torch.randn(clips[0].shape, generator=now.rng)
        return Batch((steps, int(now.shared.integers(steps))), [*clips, noise])

    def loss(self, form: Any, *tensors: Tensor) -> Tensor:
        """Error of the velocity at the last of some steps; the true one leads to the true latents."""
        count, last = form
        latents, weight, poses, reference, images, noisy = tensors
        steps, unet = ddim(small_config().noise, count), self.network.denoising_unet
        with torch.no_grad(), autocast():
            embeds = self.network.embed(scaled(images))
            features = self.network.reference_net(reference, embeds)
            pose_features = self.network.pose_guider(scaled(poses))

        def velocity(noisy: Tensor, timestep: int) -> Tensor:
            times = torch.full((len(noisy),), float(timestep))
            with autocast():
                references = unet.project_reference(features, embeds)
                return predict(
                    unet, noisy, times, pose_features, references, embeds, self.frames, motion=True
                )

        with torch.no_grad():
            for step in steps[:last]:
                noisy = step.latents * noisy + step.prediction * velocity(noisy, step.timestep)
        alpha = float(alphas_cumprod(small_config().noise)[steps[last].timestep])
        target = (alpha**0.5 * noisy - latents) / (1 - alpha) ** 0.5
        return weighted_error(velocity(noisy, steps[last].timestep), target, weight)


def weighted_error(made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of latents (n, C, h, w) with a weight for each pixel (n, 1, h, w)."""
    return (weight * (made - true).square()).mean() / weight.mean()


class Watched:
    """Held-out scenes evaluated during training: one frame of each, or whole clips of a third of them."""

    @torch.no_grad()
    def __init__(self, vae: VAE, frames: int):
        self.frames = frames
        count = HELD_OUT if frames == 1 else HELD_OUT // 3
        drawn = draw_clips(scenes_of(WATCHED, range(count)))
        true = drawn.pictures[:, 1 : 1 + frames].reshape(-1, SIZE, SIZE, 3)
        encode = encoder(vae)
        reference = torch.tensor(encode(drawn.pictures[:, 0]))
        self.latents = torch.tensor(encode(true))
        poses = to_tensor(drawn.poses[:, :frames].reshape(-1, SIZE, SIZE, 3))
        self.conditions = poses, reference, to_tensor(drawn.image)
        copied = decode(vae, reference).repeat_interleave(frames, dim=0)
        self.true = to_tensor(true)
        self.floors = {
            "psnr_of_autoencoder": psnr(decode(vae, self.latents), self.true),
            "psnr_of_reference": psnr(copied, self.true),
        }
        self.above = [copied, poses]

    def figures(self, latents: Tensor, made: Tensor) -> tuple[Figures, Picture]:
        """Figures, and a picture with the rows reference, pose, generated, true."""
        figures = {"psnr": psnr(made, self.true), "latent_mse": float(F.mse_loss(latents, self.latents))}
        if self.frames > 1:
            changes = [each.unflatten(0, (-1, self.frames)).diff(dim=1) for each in (made, self.true)]
            figures["flicker"] = 255 * float(F.mse_loss(*changes)) ** 0.5
        rows = [side_by_side(to_pictures(row[:HELD_OUT])) for row in (*self.above, made, self.true)]
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
    """Sample latents by DDIM without guidance."""
    latents = torch.randn(shape, generator=generator(0))
    for step in ddim(small_config().noise, steps):
        with autocast():
            timesteps = torch.full((len(latents),), float(step.timestep))
            prediction = network(latents, timesteps, poses, reference, images, frames, motion=motion)
        latents = step.latents * latents + step.prediction * prediction
    return latents


def noisy_timesteps(num_timesteps: int, count: int, rng: torch.Generator) -> Tensor:
    """Random timesteps (count,), with probability proportional to the timestep: at high noise the prediction
    depends on reference and pose, at low noise mostly on the latents themselves."""
    return (num_timesteps * torch.rand(count, generator=rng).sqrt()).long().clamp(max=num_timesteps - 1)
