"""The stage that trains the VAE's decoder on: sharper pictures from the same latents.

The VAE's own loss is smallest for a blurred picture wherever a latent leaves open where an edge is: its
pictures of true frames have 0.7 of their gradient energy, and no denoising can give those of a clip more. The
encoder stays as it is, so all weights that work on latents stay valid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....export.networks.vae import VAE
from ..world.scene import Picture
from .autoencoder import decode
from .dataset import mapped
from .model import SIZE
from .stage import Batch, Figures, Iteration, Pace, Stage, autocast, psnr, scaled, side_by_side, to_pictures
from .watched import Watched, gradient_energy

# Denoised latents are not exactly those of a picture: the decoder sees some with noise of up to this
# deviation.
NOISE = 0.25
CELL = 4  # pixels along a side of what has one contrast
CONTRAST = 20.0  # weight of its error
CUT = SIZE // 16  # latent pixels along a side of a crop


class Decoder(Stage):
    """Trains the decoder on crops, and at the end on whole frames, where normalisation covers a larger
    area."""

    name = "decoder"
    paces: ClassVar[dict[str, Pace]] = {
        "cpu": Pace(1_000, 2e-4, batch=16),
        "cuda": Pace(2_000, 4e-4, batch=128),
    }
    whole_from = 0.75

    def __init__(self, folder: Path, vae: VAE):
        self.latents, self.pictures = (
            mapped(folder / "latents.npy"),
            mapped(folder / "drawn" / "pictures.npy"),
        )
        self.network = vae.requires_grad_(False)
        for module in (vae.decoder, vae.post_quant_conv):
            module.requires_grad_(True)
        self.watched = Watched(vae, 1)

    def batch(self, now: Iteration) -> Batch:
        """Random crops, or a quarter as many whole frames, with the latents of the same place."""
        whole = now.progress >= self.whole_from
        side, count = (SIZE // 8, self.pace.batch // 4) if whole else (CUT, self.pace.batch)
        clips, frames = self.pictures.shape[:2]
        clip, frame, top, left = (
            torch.randint(most, (count, 1, 1), generator=now.rng)
            for most in (clips, frames, SIZE // 8 - side + 1, SIZE // 8 - side + 1)
        )

        def pixels(scale: int) -> tuple[Tensor, Tensor]:
            return torch.arange(scale * side)[:, None] + scale * top, torch.arange(
                scale * side
            ) + scale * left

        rows, columns = pixels(1)
        latents = self.latents[clip, frame, :, rows, columns].permute(0, 3, 1, 2).float()
        deviation = NOISE * torch.rand((count, 1, 1, 1), generator=now.rng)
        latents = latents + deviation * torch.randn(latents.shape, generator=now.rng)
        return Batch(side, [latents, self.pictures[clip, frame, *pixels(8)]])

    def loss(self, _side: Any, *tensors: Tensor) -> Tensor:
        latents, pictures = tensors
        target = scaled(pictures)
        with autocast():
            decoded = self.network.decode(latents).float() / 2 + 0.5
        difference = 2 * (decoded - target)
        error = difference.abs().mean() + difference.square().mean()
        return error + CONTRAST * F.mse_loss(contrast(decoded), contrast(target))

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        true = self.watched.true
        decoded = decode(network, self.watched.latents)
        figures = {
            "psnr": psnr(decoded, true),
            "sharpness": gradient_energy(decoded) / gradient_energy(true),
        }
        return figures, np.concatenate([side_by_side(to_pictures(row)) for row in (true, decoded)])


def contrast(pictures: Tensor) -> Tensor:
    """Root mean square difference of neighbouring pixels in each cell of pictures (n, 3, H, W) in [0, 1]."""
    right, below = pictures.diff(dim=3)[:, :, :-1], pictures.diff(dim=2)[:, :, :, :-1]
    squares = (right.square() + below.square()).sum(dim=1, keepdim=True)
    return (F.avg_pool2d(squares, CELL, ceil_mode=True) + 1e-4).sqrt()
