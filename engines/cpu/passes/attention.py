"""Graph pass for attention that OpenVINO's CPU plugin computes slowly (few keys) or wrongly (in bfloat16).

The plugin fuses the softmax and the two matrix products around it into one kernel, made for long rows of
scores: with 16 keys a row is one vector, whose maximum and sum are computed lane by lane. This pass exchanges
keys and queries: the softmax then runs down columns, of 16 queries at once, between two ordinary matrix
products. Temporal attention over 16 frames takes three quarters of the time. With 24 keys only bfloat16 is
faster, with 32 and 64 both take about as long, and from 128 on the fused kernel is faster.

In bfloat16, with or without AMX, the results of the fused kernel are noise if there are as many queries as
heads, because then query and result have the same shape before and after heads and queries are transposed.
They are also noise if the mask (keys,) is an input of the graph. Both are always rewritten, however many keys
there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .shapes import shape_of

FEW_KEYS = 24


def attention_keys_first(model: Any) -> Any:
    """Exchange keys and queries in each softmax(query key^T + mask) value that is slow or wrong otherwise.

    Changes the openvino.Model and returns it. The mask, if any, is (keys,). Every other softmax is left as it
    is.
    """
    from openvino import opset13 as ops

    for softmax in model.get_ordered_ops():
        if softmax.get_type_name() != "Softmax" or not (shape := shape_of(softmax.output(0))):
            continue
        _rows, heads, queries, keys = shape
        readers = list(softmax.output(0).get_target_inputs())
        if len(readers) != 1 or readers[0].get_index() != 0:
            continue
        product, scores, mask = readers[0].get_node(), softmax.input_value(0).get_node(), None
        if scores.get_type_name() == "Add":
            mask, scores = scores.input_value(1), scores.input_value(0).get_node()
        if (
            not product.get_type_name() == scores.get_type_name() == "MatMul"
            or softmax.get_attributes()["axis"] not in (3, -1)
            or any(shape_of(value) is None for node in (scores, product) for value in node.input_values())
            or (mask is not None and shape_of(mask, rank=1) != [keys])
        ):
            continue
        mask_is_input = mask is not None and mask.get_node().get_type_name() == "Parameter"
        if keys > FEW_KEYS and queries != heads and not mask_is_input:
            continue
        first, second = scores.get_attributes(), product.get_attributes()
        result = ops.matmul(
            scores.input_value(1), scores.input_value(0), not first["transpose_b"], not first["transpose_a"]
        )
        if mask is not None:
            result = ops.add(result, ops.reshape(mask, np.array([keys, 1]), special_zero=False))
        result = ops.softmax(result, 2)
        result = ops.matmul(result, product.input_value(1), not second["transpose_a"], second["transpose_b"])
        for target in product.output(0).get_target_inputs():
            target.replace_source_output(result.output(0))
    return model
