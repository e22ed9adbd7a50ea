"""Static shapes of a graph's tensors. Graph passes leave nodes with other shapes as they are."""

from __future__ import annotations

from typing import Any


def shape_of(output: Any, rank: int = 4) -> list[int] | None:
    """The shape of an openvino.Output, or None unless it is static, has that rank and is of float32."""
    shape, kind = output.get_partial_shape(), output.get_element_type().get_type_name()
    if shape.is_dynamic or shape.rank.get_length() != rank or kind != "f32":
        return None
    return [side.get_length() for side in shape]
