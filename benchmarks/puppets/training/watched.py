"""The held-out scenes that training samples now and then, to see how far it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....export.networks.vae import VAE
from ....runtime.clip.sampler import ddim
from ..world.scene import Picture
from .autoencoder import decode, encoder
from .dataset import WATCHED, draw_clips, scenes_of
from .model import SIZE, SmallModel, small_config
from .stage import HELD_OUT, Figures, autocast, generator, psnr, side_by_side, to_pictures, to_tensor


class Watched:
    """Scenes that are soft in turns: one frame of each, or whole clips of half of them."""

    @torch.no_grad()
    def __init__(self, vae: VAE, frames: int):
        self.frames = frames
        count = HELD_OUT if frames == 1 else HELD_OUT // 2
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
        """Figures, also those of the soft scenes alone, and a picture with the rows reference, pose,
        generated and true."""
        figures = {"latent_mse": float(F.mse_loss(latents, self.latents))}
        of_scenes = [each.unflatten(0, (-1, self.frames)) for each in (made, self.true)]
        for name, chosen in (("", slice(None)), ("_soft", slice(1, None, 2))):
            clips = [each[chosen] for each in of_scenes]
            figures[f"psnr{name}"] = psnr(*(each.flatten(0, 1) for each in clips))
            figures[f"sharpness{name}"] = gradient_energy(clips[0]) / gradient_energy(clips[1])
            if self.frames > 1:
                figures[f"flicker{name}"] = 255 * float(F.mse_loss(*(c.diff(dim=1) for c in clips))) ** 0.5
        rows = [side_by_side(to_pictures(row[:HELD_OUT])) for row in (*self.above, made, self.true)]
        return figures, np.concatenate(rows)


def gradient_energy(clips: Tensor) -> float:
    return float(sum(clips.diff(dim=axis).square().sum() for axis in (-1, -2)))


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
