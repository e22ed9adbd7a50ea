"""Graph pass that moves a convolution from after nearest-neighbour upsampling to before it.

In a picture upsampled by two, a 3 x 3 convolution sees only two different pixels in each direction, one of
them twice. So each of the four output pixels per input pixel is a 2 x 2 convolution of the small picture,
whose weights are sums of the nine: 16 products instead of 36, the same result up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .shapes import shape_of

# Which of three weights are summed in one direction: (output pixel, input pixel, weight). The first output
# pixel sees the left neighbour once and its own input pixel twice, the second its own twice and the right
# neighbour once.
SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)

# Coordinates and rounding by which each pixel becomes two by two equal ones.
DOUBLING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}


def convolution_before_upsampling(model: Any) -> Any:
    """Replace every 3 x 3 Convolution of a picture upsampled by two.

    Only of those whose input is float32 (N, C, h, w) of static shape. Changes the openvino.Model and
    returns it.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution" or not after_doubling(node.input_value(0).get_node(), node):
            continue
        x = node.input_value(0).get_node().input_value(0)
        weights = constant(node.input_value(1)).get_data(dtype=np.float32)
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


def after_doubling(enlarged: Any, convolution: Any) -> bool:
    """Whether `enlarged` upsamples by two and the convolution is 3 x 3, with stride 1 and padding 1."""
    if enlarged.get_type_name() != "Interpolate":
        return False
    weights, attributes, how = (
        convolution.input_value(1),
        convolution.get_attributes(),
        enlarged.get_attributes(),
    )
    before, after, kernel = map(shape_of, (enlarged.input_value(0), enlarged.output(0), weights))
    if before is None or after is None or kernel is None:
        return False
    rows, channels, height, width = before
    rounding = how.get("coordinate_transformation_mode"), how.get("nearest_mode")
    return bool(
        how["mode"] == "nearest"
        and rounding in DOUBLING
        and after == [rows, channels, 2 * height, 2 * width]
        and constant(weights) is not None
        and kernel[2:] == [3, 3]
        and list(convolution.get_output_shape(0)[2:]) == [2 * height, 2 * width]
        and attributes["strides"] == attributes["pads_begin"] == attributes["dilations"] == [1, 1]
    )


def constant(output: Any) -> Any:
    """The Constant that gives a value, also through a conversion from half precision, or None."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
