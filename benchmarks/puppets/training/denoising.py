"""The stages on latents: single frames, then only the motion modules, as in the paper; then all on clips."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ....export.networks.vae import VAE
from ....runtime.clip.sampler import alphas_cumprod
from ..world.scene import Picture
from .autoencoder import decode
from .dataset import FRAMES, UNIT, mapped
from .model import SmallModel, small_config
from .stage import (
    Batch,
    Figures,
    Iteration,
    Pace,
    Stage,
    autocast,
    scaled,
    trained_weights,
)
from .watched import Watched, sample

DROPPED = 0.1  # fraction of batches without the reference, for classifier-free guidance
ALONE = 0.25  # fraction of batches of the stage on clips that are single frames
CONTINUED = 0.25  # of the learning rate, for weights that are trained already


class Form(NamedTuple):
    """What the frames of a batch share."""

    dropped: bool  # no reference
    frames: int  # of each clip
    motion: bool  # whether frames depend on each other


class Denoising(Stage):
    """Base of the stages on latents: clips, noise, the velocity loss, and samples to inspect."""

    network: SmallModel
    watched_frames = FRAMES

    def __init__(self, folder: Path, vae: VAE):
        self.vae = vae
        names = ("latents.npy", "drawn/poses.npy", "drawn/image.npy", "drawn/weight.npy")
        self.latents, self.poses, self.images, self.weight = (mapped(folder / name) for name in names)
        self.network = SmallModel()
        self.schedule = torch.tensor(alphas_cumprod(small_config().noise), dtype=torch.float32)
        self.watched = Watched(vae, self.watched_frames)

    def chosen(self, count: int, rng: torch.Generator) -> Tensor:
        """Random clips (count,)."""
        return torch.randint(len(self.latents), (count,), generator=rng)

    def clips(self, clip: Tensor, frame: Tensor) -> list[Tensor]:
        """These frames (n, frames) of clips (n,): latents, weights of their errors and poses (n * frames,
        ...), latents and images of the references (n, ...)."""
        rows = clip[:, None]
        latents, weight = self.latents[rows, 1 + frame].float(), self.weight[rows, frame].float() / UNIT
        frames = [latents, weight[:, :, None], self.poses[rows, frame]]
        return [*(each.flatten(0, 1) for each in frames), self.latents[clip, 0].float(), self.images[clip]]

    def whole_clips(self, now: Iteration) -> Batch:
        """Whole clips, each at one noise level."""
        frame = torch.arange(FRAMES).expand(self.pace.batch, -1)
        timesteps = noisy_timesteps(len(self.schedule), self.pace.batch, now.rng)
        return self.noisy(now, frame, timesteps.repeat_interleave(FRAMES), motion=True)

    def single_frames(self, now: Iteration, clips: int, frames: int) -> Batch:
        """Frames of several clips, each at its own noise level. Those of a clip share ReferenceNet's work."""
        frame = torch.randint(FRAMES, (clips, frames), generator=now.rng)
        timesteps = noisy_timesteps(len(self.schedule), clips * frames, now.rng)
        return self.noisy(now, frame, timesteps, motion=False)

    def noisy(self, now: Iteration, frame: Tensor, timesteps: Tensor, *, motion: bool) -> Batch:
        """Clips with noise for these timesteps (n * frames,); some batches have no reference."""
        clips = self.clips(self.chosen(len(frame), now.rng), frame)
        epsilon = torch.randn(clips[0].shape, generator=now.rng)
        dropped = bool(now.shared.random() < DROPPED)
        return Batch(Form(dropped, frame.shape[1], motion), [*clips, timesteps, epsilon])

    def loss(self, form: Form, *tensors: Tensor) -> Tensor:
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
                None if form.dropped else reference,
                scaled(images),
                form.frames,
                motion=form.motion,
            )
        return weighted_error(predicted, velocity, weight)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        """Sample the held-out scenes in five steps without guidance, clips also without motion modules."""
        assert isinstance(network, SmallModel)
        motion = self.watched_frames > 1
        figures, picture = self.sampled(network, motion=motion)
        if motion:
            without, _ = self.sampled(network, motion=False)
            figures |= {f"{name}_without_motion": figure for name, figure in without.items()}
        return figures | self.watched.floors, picture

    def sampled(self, network: SmallModel, *, motion: bool, steps: int = 5) -> tuple[Figures, Picture]:
        watched = self.watched
        shape, frames = watched.latents.shape, watched.frames
        poses, reference, images = watched.conditions
        sampled = sample(network, shape, poses, reference, images, frames, motion=motion, steps=steps)
        return watched.figures(sampled, decode(self.vae, sampled))


class SingleFrames(Denoising):
    """Trains ReferenceNet, Pose Guider, image encoder and the spatial half of the denoising UNet."""

    name = "frames"
    paces: ClassVar[dict[str, Pace]] = {
        "cpu": Pace(2_300, 6e-4, batch=4),
        "cuda": Pace(5_700, 8e-4, batch=48),
    }
    frames, watched_frames = 3, 1

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

    def batch(self, now: Iteration) -> Batch:
        return self.single_frames(now, self.pace.batch, self.frames)


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

    def batch(self, now: Iteration) -> Batch:
        return self.whole_clips(now)


class Clips(Denoising):
    """Trains all networks together on clips, the motion modules at the full rate.

    Some batches are single frames without motion modules, so that a frame alone does not get worse: what
    clips lose without motion modules is then what the motion modules have learned.
    """

    name = "clips"
    paces: ClassVar[dict[str, Pace]] = {
        "cpu": Pace(3_000, 4e-4, batch=1),
        "cuda": Pace(3_000, 6e-4, batch=10),
    }

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        self.network.load_state_dict(trained_weights(folder, "motion"))
        if torch.get_default_device().type != "cuda":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def rate(self, name: str) -> float:
        return 1.0 if "motion_modules" in name else CONTINUED

    def batch(self, now: Iteration) -> Batch:
        if now.shared.random() < ALONE:
            return self.single_frames(now, 4 * self.pace.batch, FRAMES // 4)
        return self.whole_clips(now)


def weighted_error(made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of latents (n, C, h, w) with a weight for each pixel (n, 1, h, w)."""
    return (weight * (made - true).square()).mean() / weight.mean()


def noisy_timesteps(num_timesteps: int, count: int, rng: torch.Generator) -> Tensor:
    """Random timesteps (count,), with probability proportional to the timestep: at high noise the prediction
    depends on reference and pose, at low noise mostly on the latents themselves."""
    return (num_timesteps * torch.rand(count, generator=rng).sqrt()).long().clamp(max=num_timesteps - 1)
