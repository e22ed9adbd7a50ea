"""The VAE: how it is trained, and what the stages after it make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...export.vae import VAE
from .model import LATENT_CHANNELS, SIZE, small_config
from .stage import (
    HELD_OUT,
    Figures,
    Iteration,
    Rng,
    Stage,
    autocast,
    beside,
    noise,
    outcome,
    psnr,
    to_pictures,
    to_tensor,
)
from .world import Picture, Scene

MEASURED = 256  # pictures that latents are measured on


class Autoencoder(Stage):
    """The VAE, on crops and at the end on whole frames, as the normalisation sees more there."""

    name, iterations, rate = "vae", 4_500, 8e-4
    crop, batch, whole_from = SIZE // 2, 16, 0.75

    def __init__(self) -> None:
        self.network = VAE(small_config().vae)
        # Latents begin with little noise; with the unit noise of zero weights the start takes far longer.
        nn.init.constant_(self.network.quant_conv.bias[LATENT_CHANNELS:], -6)
        scenes = [Scene("held-out", seed, SIZE) for seed in range(HELD_OUT)]
        self.held_out = np.stack([scene.frame(0) for scene in scenes])

    def loss(self, now: Iteration) -> Tensor:
        whole = now.progress >= self.whole_from
        side, count = (SIZE, self.batch // 4) if whole else (self.crop, self.batch)
        target = to_tensor(self.pictures(now.rng, side, count)) * 2 - 1
        with autocast():
            moments = self.network.quant_conv(self.network.encoder(target))
            mean, log_variance = moments.float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 5)
            sample = mean + noise(now.rng, mean.shape) * (0.5 * log_variance).exp()
            decoded = self.network.decode(sample).float()
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        difference = decoded - target
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        # With its full weight the gradient difference would win over colours.
        return difference.abs().mean() + difference.square().mean() + 0.1 * edges + 1e-5 * prior

    def pictures(self, rng: Rng, side: int, count: int) -> Picture:
        """Crops of that side: two of a picture if they are smaller than it, and two pictures of a scene."""
        crops: list[Picture] = []
        each = 2 if side < SIZE else 1
        while len(crops) < count:
            scene = Scene("train", int(rng.integers(2**31)), SIZE)
            for picture in (scene.reference(), scene.frame(0)):
                for top, left in rng.integers(SIZE - side + 1, size=(each, 2)):
                    crops.append(picture[top : top + side, left : left + side])
        return np.stack(crops[:count])

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        true = to_tensor(self.held_out)
        decoded = decode(network, network.encode(true * 2 - 1))
        pictures = np.concatenate([beside(self.held_out), beside(to_pictures(decoded))])
        return {"psnr": psnr(decoded, true)}, pictures


def finished_vae(folder: Path) -> VAE:
    """The trained VAE with its latents brought to zero mean and unit deviation per channel.

    Their statistics are measured on training scenes and folded into the convolutions on either side of the
    latents, so the scaling factor is 1.
    """
    vae = VAE(small_config().vae)
    vae.load_state_dict(outcome(folder, "vae"))
    vae.requires_grad_(False)
    pictures = np.stack([Scene("train", seed, SIZE).frame(0) for seed in range(MEASURED)])
    latents = encoder(vae)(pictures)
    mean = torch.tensor(latents.mean(axis=(0, 2, 3)))
    deviation = torch.tensor(latents.std(axis=(0, 2, 3)))
    into, out = vae.quant_conv, vae.post_quant_conv
    into.bias[:LATENT_CHANNELS] = (into.bias[:LATENT_CHANNELS] - mean) / deviation
    into.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]
    return vae


def encoder(vae: VAE) -> Any:
    @torch.no_grad()
    def encode(pictures: Picture) -> NDArray[np.float32]:
        parts = to_tensor(pictures).mul(2).sub(1).split(32)
        with autocast():
            latents: NDArray[np.float32] = torch.cat([vae.encode(part) for part in parts]).cpu().numpy()
        return latents

    return encode


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """To pictures in [0, 1]."""
    decoded = torch.cat([vae.decode(part) for part in latents.split(16)])
    return (decoded / 2 + 0.5).clamp(0, 1)
