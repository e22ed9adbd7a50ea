"""The VAE: its training stage, and the normalised VAE that later stages use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....export.networks.vae import VAE
from ..world.scene import Picture
from .dataset import WATCHED, mapped, scenes_of
from .model import LATENT_CHANNELS, SIZE, small_config
from .stage import (
    HELD_OUT,
    Batch,
    Figures,
    Iteration,
    Pace,
    Stage,
    autocast,
    psnr,
    scaled,
    side_by_side,
    to_pictures,
    to_tensor,
    trained_weights,
)

MEASURED = 256  # pictures for the statistics of the latents


class Autoencoder(Stage):
    """Trains the VAE on crops, and at the end on whole frames, where normalisation covers a larger area."""

    name = "vae"
    paces: ClassVar[dict[str, Pace]] = {
        "cpu": Pace(4_500, 8e-4, batch=16),
        "cuda": Pace(5_400, 8e-4, batch=128),
    }
    crop, whole_from = SIZE // 2, 0.6

    def __init__(self, folder: Path) -> None:
        self.pictures = mapped(folder / "drawn" / "pictures.npy")
        self.network = VAE(small_config().vae)
        # Start with little noise on the latents: with unit noise (zero weights) the start takes far longer.
        nn.init.constant_(self.network.quant_conv.bias[LATENT_CHANNELS:], -6)
        self.held_out = np.stack([scene.frame(0) for scene in scenes_of(WATCHED, range(HELD_OUT))])

    def batch(self, now: Iteration) -> Batch:
        """Random crops, or a quarter as many whole frames, and noise for their latents."""
        whole = now.progress >= self.whole_from
        side, count = (SIZE, self.pace.batch // 4) if whole else (self.crop, self.pace.batch)
        clips, frames = self.pictures.shape[:2]
        clip, frame, top, left = (
            torch.randint(most, (count, 1, 1), generator=now.rng)
            for most in (clips, frames, SIZE - side + 1, SIZE - side + 1)
        )
        rows, columns = torch.arange(side)[:, None] + top, torch.arange(side) + left
        shape = (count, LATENT_CHANNELS, side // 8, side // 8)
        return Batch(side, [self.pictures[clip, frame, rows, columns], torch.randn(shape, generator=now.rng)])

    def loss(self, _side: Any, *tensors: Tensor) -> Tensor:
        pictures, noise = tensors
        target = scaled(pictures) * 2 - 1
        with autocast():
            moments = self.network.quant_conv(self.network.encoder(target))
            mean, log_variance = moments.float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 5)
            decoded = self.network.decode(mean + noise * (0.5 * log_variance).exp()).float()
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        difference = decoded - target
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        # At full weight the difference of gradients would dominate that of colours.
        return difference.abs().mean() + difference.square().mean() + 0.1 * edges + 1e-4 * prior

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        true = to_tensor(self.held_out)
        decoded = decode(network, network.encode(true * 2 - 1))
        pictures = np.concatenate([side_by_side(self.held_out), side_by_side(to_pictures(decoded))])
        return {"psnr": psnr(decoded, true)}, pictures


def finished_vae(folder: Path) -> VAE:
    """The trained VAE with latents of zero mean and unit standard deviation per channel.

    Mean and deviation are measured on training scenes and folded into the convolutions before and after the
    latents, so the scaling factor is 1.
    """
    vae = VAE(small_config().vae)
    vae.load_state_dict(trained_weights(folder, "vae"))
    vae.requires_grad_(False)
    pictures = np.load(folder / "drawn" / "pictures.npy", mmap_mode="r")
    latents = encoder(vae)(pictures[:MEASURED, 1])
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
        parts = torch.tensor(pictures).split(64)
        with autocast():
            encoded = torch.cat([vae.encode(scaled(part) * 2 - 1) for part in parts])
        latents: NDArray[np.float32] = encoded.float().cpu().numpy()
        return latents

    return encode


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Latents (n, C, h, w) -> pictures (n, 3, H, W) in [0, 1]"""
    decoded = torch.cat([vae.decode(part) for part in latents.split(16)])
    return (decoded / 2 + 0.5).clamp(0, 1)
