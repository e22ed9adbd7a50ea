"""Graph passes leave nodes alone that they are not written for, whatever a graph looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from animate_rt.engines.cpu.openvino import PASSES, apply_passes, compile_model, import_openvino
from animate_rt.engines.cpu.passes.convolution import convolution_without_idle_strides
from numpy.typing import NDArray

ALL = [*PASSES.values(), convolution_without_idle_strides]
SHAPE = [2, 4, 8, 8]


def softmax(
    after: Callable[[Any, Any], list[Any]], shape: list[int] | None = None, axis: int = 3, mask: Any = None
) -> Any:
    """A softmax of query key^T, and the results that `after` makes of the softmax and the value."""
    from openvino import opset13 as ops

    query, key, value = (ops.parameter(shape or SHAPE, np.float32) for _ in range(3))
    scores = ops.matmul(query, key, False, True)
    if mask is not None:
        scores = ops.add(scores, np.zeros(mask, np.float32))
    results = after(ops.softmax(scores, axis), value)
    return import_openvino().Model(results, [query, key, value], "softmax")


def attentions() -> dict[str, Callable[[], Any]]:
    from openvino import opset13 as ops

    def product(first: Any, second: Any) -> Any:
        return ops.matmul(first, second, False, False)

    return {
        "nothing after it": lambda: softmax(lambda s, _v: [s]),
        "two products": lambda: softmax(lambda s, v: [product(s, v), product(s, ops.relu(v))]),
        "a product and a result": lambda: softmax(lambda s, v: [product(s, v), s]),
        "another operator": lambda: softmax(lambda s, v: [ops.multiply(s, v)]),
        "the second factor": lambda: softmax(lambda s, v: [product(v, s)]),
        "both factors": lambda: softmax(lambda s, _v: [product(s, s)]),
        "over another axis": lambda: softmax(lambda s, v: [product(s, v)], axis=1),
        "a mask of rows": lambda: softmax(lambda s, v: [product(s, v)], mask=(8, 8)),
        "a mask of one": lambda: softmax(lambda s, v: [product(s, v)], mask=(1,)),
        "rank 3": lambda: softmax(lambda s, v: [product(s, v)], shape=[4, 8, 8], axis=2),
    }


def group_norm(shape: list[int], kind: Any = np.float32) -> Any:
    from openvino import opset13 as ops

    x = ops.parameter(shape, kind)
    ones = np.ones(abs(shape[1]), kind)
    return import_openvino().Model([ops.group_normalization(x, ones, ones, 2, 1e-5)], [x], "norm")


def convolution(shape: list[int], kernel: list[int], pad: str = "explicit", dilation: int = 1) -> Any:
    """Upsampling by two, if it is of pictures, and a convolution with stride 2 to one column."""
    from openvino import opset13 as ops

    x = ops.parameter(shape, np.float32)
    n = len(kernel)
    weights = np.ones([3, shape[1], *kernel], np.float32)
    result = ops.convolution(x, weights, [2] * n, [1] * n, [1] * n, [dilation] * n, auto_pad=pad)
    return import_openvino().Model([result], [x], "convolution")


def upsampling(coordinates: str, rounding: str, dilation: int = 1) -> Any:
    from openvino import opset13 as ops

    x = ops.parameter([1, 2, 4, 4], np.float32)
    doubled = ops.interpolate(
        x,
        np.array([8, 8]),
        "nearest",
        "sizes",
        axes=np.array([2, 3]),
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )
    weights = np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3)
    pads_end = [2 * dilation - 1] * 2
    result = ops.convolution(doubled, weights, [1, 1], [1, 1], pads_end, [dilation] * 2)
    return import_openvino().Model([result], [x], "upsampling")


def kinds() -> dict[str, Callable[[], Any]]:
    return attentions() | {
        "group norm of rank 2": lambda: group_norm([3, 4]),
        "group norm of rank 3": lambda: group_norm([1, 4, 9]),
        "group norm of rank 5": lambda: group_norm([1, 4, 2, 3, 3]),
        "group norm of unknown size": lambda: group_norm([1, 4, -1, -1]),
        "group norm in float16": lambda: group_norm([1, 4, 3, 3], np.float16),
        "convolution of rank 3": lambda: convolution([1, 2, 6], [3]),
        "convolution of rank 5": lambda: convolution([1, 2, 4, 4, 1], [3, 3, 3]),
        "convolution of unknown size": lambda: convolution([1, 2, -1, 1], [3, 3]),
        "convolution that pads itself": lambda: convolution([1, 2, 4, 1], [3, 3], "same_upper"),
        "upsampling, corners": lambda: upsampling("align_corners", "round_prefer_floor"),
        "upsampling, rounded up": lambda: upsampling("asymmetric", "ceil"),
        "upsampling, dilated": lambda: upsampling("asymmetric", "floor", 2),
    }


def nodes(model: Any) -> list[str]:
    return [node.get_friendly_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("kind", kinds())
def test_other_nodes_are_left_alone(kind: str) -> None:
    model = kinds()[kind]()
    before = nodes(model)
    for rewrite in ALL:
        model = rewrite(model)
    assert nodes(model) == before
    assert compile_model(import_openvino().Core(), model, "fp32")


@pytest.mark.parametrize(
    ("coordinates", "rounding"), [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")]
)
def test_upsamplings_that_repeat_each_pixel_are_rewritten(coordinates: str, rounding: str) -> None:
    x: NDArray[np.float32] = np.random.default_rng(0).standard_normal((1, 2, 4, 4), np.float32)
    core = import_openvino().Core()
    found, expected = (
        compile_model(core, apply_passes(upsampling(coordinates, rounding), passes), "fp32")([x])[0]
        for passes in (tuple(PASSES), ())
    )
    assert "Interpolate" not in {
        node.get_type_name()
        for node in PASSES["convolutions before doubling"](
            upsampling(coordinates, rounding)
        ).get_ordered_ops()
    }
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
