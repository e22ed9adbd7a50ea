"""The networks of the public formulation (plain.py) as separate parts, and its loop around given parts.

The parts can be compiled or exported, and the formulation is written only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...export.checkpoints.checkpoint import Checkpoint
from ...export.onnx_graphs import OPSET, quiet
from .onnx_engine import open_session
from .plain import Bank, PlainPipeline

IMAGE_ENCODER, VAE_ENCODER, REFERENCE, POSE_GUIDER, DENOISE, VAE_DECODER = (
    "image_encoder",
    "vae_encoder",
    "reference",
    "pose_guider",
    "denoise",
    "vae_decoder",
)
Part = Callable[..., Any]


class Call(nn.Module):
    """A function of tensors as a module that owns the networks it uses."""

    def __init__(self, function: Part, *networks: nn.Module):
        super().__init__()
        self.function, self.networks = function, nn.ModuleList(networks)

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def public_parts(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """Each part as a module of tensors only; the bank is a tuple in the order of `bank_names`."""
    pipeline, names = PlainPipeline(checkpoint), bank_names(checkpoint)

    def reference(latents: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        bank = pipeline.write_bank(latents, context)
        return tuple(bank[name] for name in names)

    def denoise(latents: Tensor, timestep: Tensor, context: Tensor, pose: Tensor, *bank: Tensor) -> Tensor:
        return pipeline.denoise(latents, timestep, context, pose, dict(zip(names, bank, strict=True)))

    return {
        IMAGE_ENCODER: checkpoint.image_encoder,
        VAE_ENCODER: Call(checkpoint.vae.encode, checkpoint.vae),
        REFERENCE: Call(reference, checkpoint.reference_net),
        POSE_GUIDER: checkpoint.pose_guider,
        DENOISE: Call(denoise, checkpoint.denoising_unet),
        VAE_DECODER: Call(checkpoint.vae.decode, checkpoint.vae),
    }


def bank_names(checkpoint: Checkpoint) -> list[str]:
    """Paths of the spatial transformers, in execution order."""
    network = checkpoint.denoising_unet
    paths = {module: name for name, module in network.named_modules()}
    return [paths[layer.attention] for layer in network.layers() if layer.attention is not None]


class PublicLoop(PlainPipeline):
    """The public formulation's loop around given parts."""

    def __init__(self, checkpoint: Checkpoint, parts: Mapping[str, Part]):
        self.names, self.parts = bank_names(checkpoint), parts
        vae = SimpleNamespace(encode=parts[VAE_ENCODER], decode=parts[VAE_DECODER])
        self.networks: Any = SimpleNamespace(
            config=checkpoint.config,
            image_encoder=parts[IMAGE_ENCODER],
            pose_guider=parts[POSE_GUIDER],
            vae=vae,
        )

    def write_bank(self, latents: Tensor, context: Tensor) -> Bank:
        return dict(zip(self.names, self.parts[REFERENCE](latents, context), strict=True))

    def denoise(
        self, latents: Tensor, timestep: Tensor, context: Tensor, pose_features: Tensor, bank: Bank
    ) -> Tensor:
        found: Tensor = self.parts[DENOISE](
            latents, timestep, context, pose_features, *(bank[name] for name in self.names)
        )
        return found


class ExportedPart:
    """A part in ONNX Runtime, exported with the shapes of its first call."""

    def __init__(self, name: str, module: nn.Module, folder: Path):
        self.module, self.path = module, folder / f"{name}.onnx"
        self.session: Any = None
        self.single = True

    def __call__(self, *tensors: Tensor) -> Any:
        if self.session is None:
            self._export(tensors)
        names = [entry.name for entry in self.session.get_inputs()]
        feed = dict(zip(names, (tensor.contiguous().numpy() for tensor in tensors), strict=True))
        found = [torch.from_numpy(array) for array in self.session.run(None, feed)]
        return found[0] if self.single else found

    def _export(self, tensors: tuple[Tensor, ...]) -> None:
        with quiet():
            self.single = isinstance(self.module(*tensors), Tensor)
            program = torch.onnx.export(self.module, tensors, dynamo=True, opset_version=OPSET, verbose=False)
        assert program is not None
        program.save(self.path, external_data=True)
        self.session = open_session(self.path)
        for part in (self.path, self.path.with_name(self.path.name + ".data")):
            part.unlink(missing_ok=True)
        del self.module
