"""The PyTorch networks against recorded tensors of the public implementation, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from animate_rt.export.graphs import graph_modules
from animate_rt.export.networks.transformer import Reference
from torch import Tensor

TOLERANCE = 1e-5  # relative to the largest value; the recorded run used other batches


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def io(case: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in case.io.items()}


@pytest.fixture(scope="module")
def features(checkpoint: Any, io: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found: list[Tensor] = checkpoint.reference_net(io["reference_latents"], io["image_embeds"])
    return found


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_image_encoder(checkpoint: Any, io: dict[str, Tensor]) -> None:
    assert_close(checkpoint.image_encoder(io["clip_pixels"]), io["image_embeds"])


def test_vae_encoder_from_uint8(checkpoint: Any, io: dict[str, Tensor]) -> None:
    graph = graph_modules(checkpoint)["vae_encoder"]
    assert_close(graph(io["reference_image"][None]), io["reference_latents"])


def test_pose_guider_from_uint8(checkpoint: Any, io: dict[str, Tensor]) -> None:
    graph = graph_modules(checkpoint)["pose_guider"]
    assert_close(graph(io["pose_frames"]), io["pose_features"][0].transpose(0, 1))


def test_vae_decoder_rounds_to_the_nearest_uint8(checkpoint: Any, io: dict[str, Tensor]) -> None:
    graph = graph_modules(checkpoint)["vae_decoder"]
    frames = graph(io["final_latents"][0].transpose(0, 1))
    expected = io["video"][0].permute(1, 2, 3, 0) * 255
    assert frames.dtype == torch.uint8
    assert (frames - expected).abs().max() <= 0.5 + 255 * TOLERANCE


def test_reference_features_of_every_block(
    checkpoint: Any, features: list[Tensor], io: dict[str, Tensor]
) -> None:
    unet = checkpoint.reference_net
    paths = {module: name for name, module in unet.named_modules()}
    blocks = [layer.attention.block for layer in unet.layers() if layer.attention is not None]
    recorded = {name for name in io if name.startswith("reference_features/")}
    assert {f"reference_features/{paths[block]}" for block in blocks} == recorded
    for block, feature in zip(blocks, features, strict=True):
        assert_close(feature, io[f"reference_features/{paths[block]}"])


def call_unet(
    checkpoint: Any, io: dict[str, Tensor], reference: list[Reference], scale: float | None
) -> Tensor:
    unet = checkpoint.denoising_unet
    latents = io["unet_sample"][0].transpose(0, 1)
    prediction: Tensor = unet(
        latents,
        torch.tensor([len(latents)], dtype=torch.int32),
        unet.time_row(io["unet_timestep"].float()),
        io["unet_pose"][0].transpose(0, 1),
        reference,
        None if scale is None else torch.tensor([scale]),
    )
    return prediction


@pytest.mark.parametrize("scale", [None, 0.0, 1.0, 3.5])
def test_denoising_unet(
    checkpoint: Any, features: list[Tensor], io: dict[str, Tensor], scale: float | None
) -> None:
    """At scale 0 the guided prediction is the unconditional row, without a scale the conditional one."""
    unconditional, conditional = (row.transpose(0, 1) for row in io["unet_output"])
    reference = checkpoint.denoising_unet.project_reference(features, io["image_embeds"])
    found = call_unet(checkpoint, io, reference, scale)
    if scale is None:
        assert_close(found, conditional)
    else:
        assert_close(found, unconditional + scale * (conditional - unconditional))
