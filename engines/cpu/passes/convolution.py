"""Graph pass for convolutions that oneDNN, which OpenVINO uses, computes wrongly in bfloat16.

Its kernel for AMX (brgemm) is wrong for a convolution with a horizontal stride, one column of output and more
than one row: some rows are noise, infinite or not a number. The last downsampling of a UNet is such a
convolution for pictures up to 64 pixels wide. With one output column the horizontal stride has no effect: the
same convolution without it computes the same sums, and correctly. Seen in OpenVINO 2026.4.1, and in PyTorch
2.13 with oneDNN 3.12.
"""

from __future__ import annotations

from typing import Any

from .shapes import shape_of


def convolution_without_idle_strides(model: Any) -> Any:
    """Remove the horizontal stride of each Convolution with one output column.

    Only of those whose input is float32 (N, C, h, w) of static shape and whose padding is explicit.

    Changes the openvino.Model and returns it. The results are the same bits in float32.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution" or not all(map(shape_of, node.input_values())):
            continue
        attributes = node.get_attributes()
        if attributes["auto_pad"] != "explicit":
            continue
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
