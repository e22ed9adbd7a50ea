"""Convolutions of doubled pictures at half the size, against the same in their own form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from animate_rt.engines.openvino import import_openvino
from animate_rt.engines.upsampling import at_half_size


def network(rows: int, channels: int, height: int, width: int, kernel: int, pad: int, scale: int = 2) -> Any:
    """An enlargement and a convolution that makes more channels, then both once more."""
    ov = import_openvino()
    from openvino import opset13 as ops

    generator = np.random.default_rng(0)
    parameter = x = ops.parameter([rows, channels, height, width], np.float32)
    for outputs in (2 * channels, 3):
        inputs, size = x.get_output_shape(0)[1], x.get_output_shape(0)[2:]
        enlarged = ops.interpolate(
            x,
            np.array([scale * side for side in size]),
            "nearest",
            "sizes",
            axes=np.array([2, 3]),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        weights = generator.standard_normal((outputs, inputs, kernel, kernel), np.float32)
        convolved = ops.convolution(enlarged, weights, [1, 1], [pad, pad], [pad, pad], [1, 1])
        x = ops.add(convolved, generator.standard_normal((1, outputs, 1, 1), np.float32))
    return ov.Model([x], [parameter], "enlarging")


def result(model: Any) -> Any:
    ov = import_openvino()
    exact = {ov.properties.hint.inference_precision: ov.Type.f32}
    shape = tuple(model.inputs[0].shape)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    (found,) = ov.Core().compile_model(model, "CPU", exact)(x).values()
    return found


def kinds(model: Any) -> set[str]:
    return {node.get_type_name() for node in model.get_ordered_ops()}


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (3, 7), (8, 6)])
@pytest.mark.parametrize("rows", [1, 3])
def test_doubled_pictures(rows: int, size: tuple[int, int]) -> None:
    expected = result(network(rows, 8, *size, kernel=3, pad=1))
    model = at_half_size(network(rows, 8, *size, kernel=3, pad=1))
    assert "Interpolate" not in kinds(model)
    found = result(model)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("kernel", "pad", "scale"), [(3, 0, 2), (3, 2, 2), (5, 2, 2), (1, 0, 2), (3, 1, 3)])
def test_others_stay(kernel: int, pad: int, scale: int) -> None:
    model = network(1, 4, 5, 6, kernel, pad, scale)
    before = kinds(model)
    assert kinds(at_half_size(model)) == before
