"""The graph pass for group normalisation, computed by OpenVINO, against the definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from animate_rt.engines.cpu.openvino import import_openvino
from animate_rt.engines.cpu.passes.group_norm import group_norm_by_channel
from numpy.typing import NDArray

EPS = 1e-5


def network(rows: int, channels: int, groups: int) -> Any:
    """A model of two group normalisations, one after the other."""
    ov = import_openvino()
    from openvino import opset13 as ops

    x = ops.parameter([rows, channels, 6, 10], np.float32)
    weight, bias = (ops.constant(values) for values in parameters(channels))
    once = ops.group_normalization(x, weight, bias, groups, EPS)
    twice = ops.group_normalization(ops.relu(once), weight, bias, groups, EPS)
    return ov.Model([twice], [x], "norms")


def parameters(channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(channels)
    return (
        generator.standard_normal(channels, dtype=np.float32) + 1,
        generator.standard_normal(channels, dtype=np.float32),
    )


def defined(x: NDArray[Any], groups: int) -> NDArray[Any]:
    weight, bias = (values.astype(np.float64)[:, None, None] for values in parameters(x.shape[1]))
    members = x.reshape(x.shape[0], groups, -1)
    deviation = np.sqrt(members.var(axis=2, keepdims=True) + EPS)
    return ((members - members.mean(axis=2, keepdims=True)) / deviation).reshape(x.shape) * weight + bias


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize(("rows", "channels", "groups"), [(1, 32, 8), (3, 32, 32), (2, 24, 1), (16, 64, 32)])
def test_group_norm_by_channel_equals_the_definition(
    rows: int, channels: int, groups: int, mean: float
) -> None:
    ov = import_openvino()
    generator = np.random.default_rng(0)
    # Each channel has its own mean and deviation, so that the result depends on which ones form a group.
    offset, spread = generator.standard_normal((2, 1, channels, 1, 1)) * 3
    x = (generator.standard_normal((rows, channels, 6, 10)) * spread + offset + mean).astype(np.float32)
    expected = defined(np.maximum(defined(x.astype(np.float64), groups), 0), groups)
    model = group_norm_by_channel(network(rows, channels, groups))
    assert "GroupNormalization" not in {node.get_type_name() for node in model.get_ops()}
    exact = {ov.properties.hint.inference_precision: ov.Type.f32}
    (found,) = ov.Core().compile_model(model, "CPU", exact)(x).values()
    # A mean of 100 costs two of float32's seven digits, with the pass or without it.
    assert np.abs(found - expected).max() <= (1e-5 if mean == 0 else 1e-3) * np.abs(expected).max()
