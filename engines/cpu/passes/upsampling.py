"""Convolutions of enlarged pictures, computed before they are enlarged.

Where nearest-neighbour enlargement has doubled a picture, a convolution of 3 x 3 sees in each direction only
two different pixels, one of them twice. So each of the four pixels that one becomes is a convolution of 2 x 2
of the small picture, whose weights are sums of the nine: 16 products instead of 36, the same sums up to
rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# How three weights become two in one direction, (which of the doubled pixels, small pixel, weight): the first
# sees its left neighbour and twice itself, the second twice itself and its right neighbour.
SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def convolution_before_upsampling(model: Any) -> Any:
    """Replace every 3 x 3 Convolution of a doubled picture in an openvino.Model; returns the model. float32,
    (N, C, h, w)."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution" or not doubles(node.input_value(0).get_node(), node):
            continue
        x = node.input_value(0).get_node().input_value(0)
        weights = node.input_value(1).get_node().data
        quarters = [
            ops.convolution(
                x,
                np.einsum("ar,bc,oirc->oiab", SUMS[down], SUMS[across], weights),
                [1, 1],
                [1 - down, 1 - across],
                [down, across],
                [1, 1],
            )
            for down in range(2)
            for across in range(2)
        ]
        result = ops.depth_to_space(ops.concat(quarters, 1), "blocks_first", 2)
        result.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(result.output(0))
    return model


def doubles(enlarged: Any, convolution: Any) -> bool:
    """Does the convolution see, one pixel around each, a picture that was doubled?"""
    if enlarged.get_type_name() != "Interpolate" or enlarged.get_attributes()["mode"] != "nearest":
        return False
    rows, channels, height, width = enlarged.get_input_shape(0)
    weights, attributes = convolution.input_value(1), convolution.get_attributes()
    return bool(
        list(enlarged.get_output_shape(0)) == [rows, channels, 2 * height, 2 * width]
        and weights.get_node().get_type_name() == "Constant"
        and list(weights.get_shape()[2:]) == [3, 3]
        and list(convolution.get_output_shape(0)[2:]) == [2 * height, 2 * width]
        and attributes["strides"] == [1, 1]
        and attributes["pads_begin"] == [1, 1]
    )
