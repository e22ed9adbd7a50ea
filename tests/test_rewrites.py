"""Each exact rewrite of the graphs against the plain formulation (benchmarks/baselines/plain.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from animate_rt.benchmarks.baselines import plain
from animate_rt.engines.model import MotionConfig
from animate_rt.export.networks.layers import Attention, attend
from animate_rt.export.networks.motion import MotionModule
from animate_rt.export.networks.transformer import Reference
from animate_rt.export.networks.unet import HIDDEN
from animate_rt.runtime.clip.windows import uniform
from torch import Tensor, nn

FRAMES, GUIDANCE = 5, 3.5


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


class Inputs:
    """One window's random inputs for a checkpoint, in both formulations' layouts."""

    def __init__(self, checkpoint: Any):
        config, generator = checkpoint.config, torch.Generator().manual_seed(1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.latents = normal(FRAMES, 4, 12, 8)
        self.reference_latents = normal(1, 4, 12, 8)
        self.pose_features = normal(FRAMES, config.unet.widths[0], 12, 8)
        self.embeds = normal(1, config.image_encoder.projection_dim)
        self.context = torch.stack([torch.zeros_like(self.embeds), self.embeds])
        self.timestep = torch.tensor([640.0])
        self.num_frames = torch.tensor([FRAMES], dtype=torch.int32)


@pytest.fixture(scope="module")
def inputs(checkpoint: Any) -> Inputs:
    return Inputs(checkpoint)


@pytest.fixture(scope="module")
def plain_rows(checkpoint: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Unconditional and conditional prediction of the plain formulation."""
    pipeline = plain.PlainPipeline(checkpoint)
    with torch.no_grad():
        bank = pipeline.write_bank(inputs.reference_latents, inputs.context)
        rows = pipeline.denoise(
            inputs.latents.repeat(2, 1, 1, 1),
            inputs.timestep,
            inputs.context,
            inputs.pose_features.repeat(2, 1, 1, 1),
            bank,
        )
    unconditional, conditional = rows.chunk(2)
    return unconditional, conditional


def reference_of(checkpoint: Any, inputs: Inputs) -> list[Reference]:
    features = checkpoint.reference_net(inputs.reference_latents, inputs.embeds)
    reference: list[Reference] = checkpoint.denoising_unet.project_reference(features, inputs.embeds)
    return reference


def predict(checkpoint: Any, inputs: Inputs, scale: float | None, **changed: Any) -> Tensor:
    unet = checkpoint.denoising_unet
    values = vars(inputs) | changed
    prediction: Tensor = unet(
        values["latents"],
        values["num_frames"],
        unet.time_row(values["timestep"]),
        values["pose_features"],
        reference_of(checkpoint, inputs),
        None if scale is None else torch.tensor([scale]),
    )
    return prediction


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_reference_is_computed_for_the_conditional_row_alone(checkpoint: Any, inputs: Inputs) -> None:
    """One row at batch 1 gives what the plain pass over two rows gives for the conditional one."""
    bank = plain.PlainPipeline(checkpoint).write_bank(inputs.reference_latents, inputs.context)
    features = checkpoint.reference_net(inputs.reference_latents, inputs.embeds)
    names = {module: name for name, module in checkpoint.reference_net.named_modules()}
    for layer, feature in zip(
        (layer for layer in checkpoint.reference_net.layers() if layer.attention), features, strict=True
    ):
        assert_close(feature, bank[names[layer.attention]][1:])


def test_keys_and_values_are_cached_after_projection() -> None:
    """Projecting the reference once equals projecting it together with every frame."""
    attention = Attention(48, heads=6)
    normed, feature = torch.randn(FRAMES, 20, 48), torch.randn(1, 12, 48)
    everything = torch.cat([normed, feature.expand(FRAMES, -1, -1)], dim=1)
    expected = plain.attention(attention, normed, everything)
    key, value = attention.key(feature), attention.value(feature)
    found = attention.output(
        attend(
            attention.query(normed),
            torch.cat([attention.key(normed), key.expand(FRAMES, -1, -1, -1)], dim=2),
            torch.cat([attention.value(normed), value.expand(FRAMES, -1, -1, -1)], dim=2),
        )
    )
    assert_close(found, expected)


def test_the_unconditional_half_never_sees_the_reference(
    checkpoint: Any, inputs: Inputs, plain_rows: tuple[Tensor, Tensor]
) -> None:
    """At scale 0 only the unconditional half is left, and no reference changes it."""
    assert_close(predict(checkpoint, inputs, 0.0), plain_rows[0])
    assert_close(predict(checkpoint, inputs, None), plain_rows[1])
    unet = checkpoint.denoising_unet
    others = [Reference(*(torch.randn_like(t) for t in block)) for block in reference_of(checkpoint, inputs)]
    time_row = unet.time_row(inputs.timestep)
    found = unet(
        inputs.latents, inputs.num_frames, time_row, inputs.pose_features, others, torch.tensor([0.0])
    )
    assert_close(found, plain_rows[0])


def test_cross_attention_to_one_token_is_a_constant() -> None:
    """It does not depend on the query. With a zero embedding it is the bias of the output layer."""
    attention = Attention(48, heads=6, context_dim=32)
    context, queries = torch.randn(3, 1, 32), torch.randn(3, 20, 48)
    expected = plain.attention(attention, queries, context)
    assert_close(attention.to_one_token(context[:, 0])[:, None].expand(-1, 20, -1), expected)
    zero = attention.to_one_token(torch.zeros(1, 32))[0]
    assert torch.equal(zero, attention.to_out[0].bias)


def test_time_row_holds_every_resnets_projection(checkpoint: Any, inputs: Inputs) -> None:
    """In the order in which the plain formulation's resnets use them."""
    unet = checkpoint.denoising_unet
    time = plain.embed(unet, inputs.timestep)
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    expected = [resnet.time_emb_proj(F.silu(time)) for block in blocks for resnet in block.resnets]
    assert_close(unet.time_row(inputs.timestep), torch.cat(expected, dim=1))


def test_guidance_inside_the_graph(
    checkpoint: Any, inputs: Inputs, plain_rows: tuple[Tensor, Tensor]
) -> None:
    unconditional, conditional = plain_rows
    expected = unconditional + GUIDANCE * (conditional - unconditional)
    assert_close(predict(checkpoint, inputs, GUIDANCE), expected)


def test_the_plain_formulation_equals_the_recorded_frames(case: Any, checkpoint: Any) -> None:
    """The plain formulation gives the frames of the public implementation. (test_networks.py tests the graphs
    that take or give pixels as uint8.)"""
    io = {name: torch.from_numpy(array) for name, array in case.io.items()}
    frames = plain.PlainPipeline(checkpoint)(
        io["reference_image"][None],
        resized(case),
        io["pose_frames"],
        io["initial_noise"][0].transpose(0, 1),
        steps=case.steps,
        guidance_scale=case.guidance_scale,
        windows=uniform(case.frames, case.window, case.overlap),
    )
    assert_close(frames, io["video"][0].transpose(0, 1))


def resized(case: Any) -> Tensor:
    from animate_rt.runtime.media.picture import read_picture, square

    return torch.from_numpy(square(read_picture(case.reference), 224))[None]


def test_motion_tokens_are_reordered_once() -> None:
    """The motion module orders its tokens by position once; the plain one does so for each attention."""
    config = MotionConfig(levels=(True,), mid=True, heads=4, blocks=2, attentions=2, max_frames=8)
    module = MotionModule(32, 8, config)
    x = torch.randn(2 * FRAMES, 32, 4, 3)
    assert_close(module(x, torch.zeros(FRAMES)), plain.motion(module, x, runs=2))


def test_padding_frames_change_nothing(checkpoint: Any, inputs: Inputs) -> None:
    """A short window in a longer one equals the short window by itself, whatever the padding holds."""
    short = 3
    alone = predict(
        checkpoint,
        inputs,
        GUIDANCE,
        latents=inputs.latents[:short],
        pose_features=inputs.pose_features[:short],
        num_frames=torch.tensor([short], dtype=torch.int32),
    )
    latents, pose_features = inputs.latents.clone(), inputs.pose_features.clone()
    for filler in (0.0, 100.0):
        latents[short:], pose_features[short:] = filler, -filler
        padded = predict(
            checkpoint,
            inputs,
            GUIDANCE,
            latents=latents,
            pose_features=pose_features,
            num_frames=torch.tensor([short], dtype=torch.int32),
        )
        assert_close(padded[:short], alone)


def test_a_hidden_key_has_exactly_no_weight() -> None:
    scores = torch.tensor([[-300.0, 300.0 + HIDDEN]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert scores.to(dtype).float().softmax(dim=1)[0, 1] == 0


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 40), (torch.bfloat16, 40), (torch.bfloat16, 8)])
def test_fused_and_decomposed_attention_agree(dtype: torch.dtype, width: int) -> None:
    """Head width and dtype decide between the fused operator and its parts (docs/structure.md)."""
    query, key, value = (torch.randn(2, 3, 7, width, dtype=dtype) for _ in range(3))
    mask = torch.zeros(7, dtype=dtype)
    mask[5:] = HIDDEN
    expected = F.scaled_dot_product_attention(
        query.double(), key[:, :, :5].double(), value[:, :, :5].double()
    )
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert_close(attend(query, key, value, mask).double(), expected, tolerance)


def test_a_reference_equal_to_the_frame_changes_nothing() -> None:
    """A reference that is the frame itself doubles every key, so the result stays the same (SPEC.md 9.1)."""
    attention: nn.Module = Attention(48, heads=6)
    normed = torch.randn(1, 20, 48)
    twice = torch.cat([normed, normed], dim=1)
    assert_close(plain.attention(attention, normed, twice), plain.attention(attention, normed, normed))
