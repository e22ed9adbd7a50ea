"""Attention in a form that OpenVINO's CPU plugin gets right in bfloat16.

It computes the two products around a softmax as one kernel, with the changes of layout on the way in and out.
In bfloat16, with AMX or without, results are noise where there are as many queries as heads: query and result
have then one shape before and after heads and queries change places. So temporal attention over 8 frames, or
8 positions at the deepest level, with 8 heads. They are too where a mask (keys,) is an input of the graph.
With heads in the batch there is nothing to take for the same; it is still one kernel, but one that the
changes of layout stay out of, so it is for these cases alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def by_head(model: Any) -> Any:
    """Put heads into the batch of each softmax(query key^T + mask) value of an openvino.Model that would be
    wrong; returns the model. The mask, if there is one, is (keys,)."""
    from openvino import opset13 as ops

    def shaped(x: Any, *shape: int) -> Any:
        return ops.reshape(x, np.array(shape), special_zero=False)

    for softmax in model.get_ordered_ops():
        if softmax.get_type_name() != "Softmax" or len(softmax.get_output_shape(0)) != 4:
            continue
        (reader,) = softmax.output(0).get_target_inputs()
        product, scores, mask = reader.get_node(), softmax.input_value(0).get_node(), None
        if scores.get_type_name() == "Add":
            mask, scores = scores.input_value(1), scores.input_value(0).get_node()
        assert product.get_type_name() == scores.get_type_name() == "MatMul"
        rows, heads, queries, keys = softmax.get_output_shape(0)
        given = mask is not None and mask.get_node().get_type_name() == "Parameter"
        if queries != heads and not given:
            continue

        def batched(x: Any, batch: int = rows * heads) -> Any:
            return shaped(x, batch, *x.get_shape()[2:])

        first, second = scores.get_attributes(), product.get_attributes()
        found = ops.matmul(
            batched(scores.input_value(0)),
            batched(scores.input_value(1)),
            first["transpose_a"],
            first["transpose_b"],
        )
        if mask is not None:
            found = ops.add(found, shaped(mask, 1, 1, keys))
        values = batched(product.input_value(1))
        found = ops.matmul(ops.softmax(found, 2), values, second["transpose_a"], second["transpose_b"])
        result = shaped(found, rows, heads, queries, values.get_output_shape(0)[2])
        for target in product.output(0).get_target_inputs():
            target.replace_source_output(result.output(0))
    return model
