"""Convolutions in a form that oneDNN, which OpenVINO computes them with, gets right in bfloat16.

Its kernel for AMX (brgemm) is wrong for a convolution that has a stride across, one column of output and more
than one row: some rows are noise, infinite or not a number. So does a UNet downsample pictures 64 wide or
less. With one column there is nothing to stride across to: the same convolution without that stride is the
same sums, and comes out right. Seen in OpenVINO 2026.4.1, and in PyTorch 2.13 with oneDNN 3.12.
"""

from __future__ import annotations

from typing import Any


def convolution_without_idle_strides(model: Any) -> Any:
    """Replace every Convolution of an openvino.Model that strides across and has one column; returns it.

    Those of pictures, (N, C, h, w); the results are the same bits in float32.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution" or len(node.get_output_shape(0)) != 4:
            continue
        attributes = node.get_attributes()
        down, across = attributes["strides"]
        if across == 1 or node.get_output_shape(0)[3] > 1:
            continue
        x, weights = node.input_value(0), node.input_value(1)
        (_, width), (top, left) = x.get_shape()[2:], attributes["pads_begin"]
        dilation = attributes["dilations"]
        seen = (weights.get_shape()[3] - 1) * dilation[1] + 1 - left  # columns of x that the kernel covers
        if width > seen:
            x = ops.slice(x, [0], [seen], [1], [3])
        pads_end = [attributes["pads_end"][0], max(seen - width, 0)]
        result = ops.convolution(x, weights, [down, 1], [top, left], pads_end, dilation)
        result.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(result.output(0))
    return model
