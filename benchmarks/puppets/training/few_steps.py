"""The stage for few steps without guidance, which also keeps their pictures sharp."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....export.networks.vae import VAE
from ....runtime.clip.sampler import alphas_cumprod, ddim
from ..world.scene import Picture
from .dataset import FRAMES, mapped
from .decoder import contrast
from .denoising import Denoising, weighted_error
from .model import SmallModel, predict, small_config
from .stage import Batch, Figures, Iteration, Pace, autocast, scaled, trained_weights

FEW_STEPS = (4, 5, 6)
# The last steps of each schedule are also trained for contrast. Earlier ones are not: what they cannot know
# is best left blurred for the later ones.
SHARPENED = 2
COMPARED = 4  # frames of each clip whose contrast is compared
CONTRAST = 10.0  # weight of its error


class FewSteps(Denoising):
    """Trains the spatial half of the denoising UNet again, for 4 to 6 steps without guidance: from latents
    that its own steps have produced, it learns to predict the true latents.

    That alone would teach it to blur, as the mean of what is possible has the smallest error. So the contrast
    of decoded frames counts as well, wherever exactly their edges are.
    """

    name = "few-steps"
    paces: ClassVar[dict[str, Pace]] = {"cpu": Pace(800, 1e-4, batch=1), "cuda": Pace(1_300, 2e-4, batch=10)}

    def __init__(self, folder: Path, vae: VAE):
        super().__init__(folder, vae)
        self.pictures = mapped(folder / "drawn" / "pictures.npy")
        self.network.load_state_dict(trained_weights(folder, "clips"))
        self.network.requires_grad_(False)
        self.network.denoising_unet.requires_grad_(True)
        # Only the spatial half is written: the other weights are those of the set with guidance.
        for module in self.network.temporal():
            module.requires_grad_(False)

    def batch(self, now: Iteration) -> Batch:
        """Clips, some of their frames as pictures, and noise. `form` is the number of steps and the index of
        the last one, which is trained."""
        steps = int(now.shared.choice(FEW_STEPS))
        count = self.pace.batch
        clip = self.chosen(count, now.rng)
        clips = self.clips(clip, torch.arange(FRAMES).expand(count, -1))
        compared = torch.randint(FRAMES, (count, COMPARED), generator=now.rng)
        pictures = self.pictures[clip[:, None], 1 + compared].flatten(0, 1)
        rows = (compared + FRAMES * torch.arange(count)[:, None]).flatten()
        noise = torch.randn(clips[0].shape, generator=now.rng)
        form = steps, int(now.shared.integers(steps))
        return Batch(form, [*clips, pictures, rows, noise])

    def loss(self, form: Any, *tensors: Tensor) -> Tensor:
        """Error of the velocity at the last of some steps; the true one leads to the true latents."""
        count, last = form
        latents, weight, poses, reference, images, pictures, rows, noisy = tensors
        steps, unet = ddim(small_config().noise, count), self.network.denoising_unet
        with torch.no_grad(), autocast():
            embeds = self.network.embed(scaled(images))
            features = self.network.reference_net(reference, embeds)
            pose_features = self.network.pose_guider(scaled(poses))

        def velocity(noisy: Tensor, timestep: int) -> Tensor:
            times = torch.full((len(noisy),), float(timestep))
            with autocast():
                references = unet.project_reference(features, embeds)
                return predict(unet, noisy, times, pose_features, references, embeds, FRAMES, motion=True)

        with torch.no_grad():
            for step in steps[:last]:
                noisy = step.latents * noisy + step.prediction * velocity(noisy, step.timestep)
        alpha = float(alphas_cumprod(small_config().noise)[steps[last].timestep])
        signal, sigma = alpha**0.5, (1 - alpha) ** 0.5
        made = velocity(noisy, steps[last].timestep)
        error = weighted_error(made, (signal * noisy - latents) / sigma, weight)
        if last < count - SHARPENED:
            return error
        with autocast():
            decoded = self.vae.decode((signal * noisy - sigma * made)[rows]).float()
        return error + CONTRAST * F.mse_loss(contrast(decoded / 2 + 0.5), contrast(scaled(pictures)))

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[Figures, Picture]:
        """Sample the held-out scenes in four steps and in one."""
        assert isinstance(network, SmallModel)
        figures, picture = self.sampled(network, motion=True, steps=4)
        one, _ = self.sampled(network, motion=True, steps=1)
        figures |= {f"{name}_in_one_step": figure for name, figure in one.items()}
        return figures | self.watched.floors, picture
