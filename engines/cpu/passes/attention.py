"""Attention to few keys in a form that OpenVINO's CPU plugin computes faster, and that it gets right.

It computes the two products around a softmax as one kernel, which is made for long rows of scores: at 16 keys
each row is one vector, whose largest value and sum are found lane by lane. With keys and queries exchanged
the softmax runs down a column, of 16 queries at once, between two ordinary products: over 16 frames temporal
attention takes three quarters of the time. At 24 keys it gains in bfloat16 alone, at 32 and 64 both take
about as long, and from 128 on the one kernel is faster.

In bfloat16, with AMX or without, results of the one kernel are noise where there are as many queries as
heads: query and result have then one shape before and after heads and queries change places. They are too
where a mask (keys,) is an input of the graph. Those get this form however many keys there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FEW = 24


def attention_keys_first(model: Any) -> Any:
    """Exchange keys and queries in each softmax(query key^T + mask) value of an openvino.Model that gains by
    it or would be wrong; returns the model. The mask, if there is one, is (keys,)."""
    from openvino import opset13 as ops

    for softmax in model.get_ordered_ops():
        if softmax.get_type_name() != "Softmax" or len(softmax.get_output_shape(0)) != 4:
            continue
        (reader,) = softmax.output(0).get_target_inputs()
        product, scores, mask = reader.get_node(), softmax.input_value(0).get_node(), None
        if scores.get_type_name() == "Add":
            mask, scores = scores.input_value(1), scores.input_value(0).get_node()
        assert product.get_type_name() == scores.get_type_name() == "MatMul"
        _rows, heads, queries, keys = softmax.get_output_shape(0)
        given = mask is not None and mask.get_node().get_type_name() == "Parameter"
        if keys > FEW and queries != heads and not given:
            continue
        first, second = scores.get_attributes(), product.get_attributes()
        found = ops.matmul(
            scores.input_value(1), scores.input_value(0), not first["transpose_b"], not first["transpose_a"]
        )
        if mask is not None:
            found = ops.add(found, ops.reshape(mask, np.array([keys, 1]), special_zero=False))
        found = ops.softmax(found, 2)
        found = ops.matmul(found, product.input_value(1), not second["transpose_a"], second["transpose_b"])
        for target in product.output(0).get_target_inputs():
            target.replace_source_output(found.output(0))
    return model
