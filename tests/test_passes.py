"""Graph passes for the CPU: results stay the same in float32, and are right in bfloat16 where the CPU has it.

Which operators OpenVINO gets wrong without the passes depends on the CPU: convolutions with AMX, attention
with AVX-512 BF16. So each shape in bfloat16 is compared with float32; on CPUs without bfloat16 only float32
with the pass is compared with float32 without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from animate_rt.engines.cpu.openvino import import_openvino, options
from animate_rt.engines.cpu.passes.attention import attention_keys_first
from animate_rt.engines.cpu.passes.convolution import convolution_without_idle_strides
from animate_rt.engines.cpu.passes.upsampling import convolution_before_upsampling
from numpy.typing import NDArray

Array = NDArray[np.float32]
# Relative to the largest value. Measured: 3e-3 for convolutions, 7e-3 for attention, 0.5 for wrong results.
ROUNDING = 2e-2


def computed(model: Any, precision: Any, inputs: list[Array]) -> Array:
    core = import_openvino().Core()
    request = core.compile_model(model, "CPU", options(core, precision)).create_infer_request()
    request.infer(inputs)
    return np.array(request.get_output_tensor().data)


def check(make: Callable[[], Any], rewrite: Callable[[Any], Any], inputs: list[Array], exact: bool) -> None:
    truth = computed(make(), "fp32", inputs)
    again = computed(rewrite(make()), "fp32", inputs)
    largest = np.abs(truth).max()
    assert np.abs(again - truth).max() <= (0 if exact else 1e-5) * largest
    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found = computed(rewrite(make()), "bf16", inputs)
        assert np.abs(found - truth).max() <= ROUNDING * largest  # also false for NaN


def normal(*shapes: tuple[int, ...]) -> list[Array]:
    chance = np.random.default_rng(0)
    return [chance.standard_normal(shape, np.float32) for shape in shapes]


def nodes(model: Any) -> list[str]:
    return [node.get_friendly_name() for node in model.get_ordered_ops()]


def convolution(
    x: tuple[int, ...], begin: int, end: int, kernel: int = 3, stride: int = 2
) -> Callable[[], Any]:
    from openvino import opset13 as ops

    (weights,) = normal((64, x[1], kernel, kernel))

    def make() -> Any:
        parameter = ops.parameter(x, np.float32)
        pads = [begin, begin], [end, end]
        result = ops.convolution(ops.relu(parameter), weights, [stride, stride], *pads, [1, 1])
        return import_openvino().Model([result], [parameter], "convolution")

    return make


@pytest.mark.parametrize("height", [2, 3, 4, 5, 9, 16])
@pytest.mark.parametrize("width", [2, 3, 4, 5, 9])
@pytest.mark.parametrize("pads", [(1, 1), (0, 1)])  # of the UNets and of the VAE
def test_downsampling(width: int, height: int, pads: tuple[int, int]) -> None:
    for rows, channels in ((12, 64), (1, 320)):
        x = (rows, channels, height, width)
        check(convolution(x, *pads), convolution_without_idle_strides, normal(x), exact=True)


@pytest.mark.parametrize(("kernel", "width", "pads"), [(3, 3, (1, 0)), (3, 4, (0, 0)), (1, 2, (0, 0))])
def test_downsampling_with_columns_that_no_kernel_reaches(
    kernel: int, width: int, pads: tuple[int, int]
) -> None:
    x = (12, 64, 6, width)
    check(convolution(x, *pads, kernel=kernel), convolution_without_idle_strides, normal(x), exact=True)


def test_other_convolutions_are_left_as_they_are() -> None:
    for x, stride in (((12, 64, 3, 4), 2), ((12, 64, 3, 1), 1)):
        model = convolution(x, 1, 1, stride=stride)()
        before = nodes(model)
        assert nodes(convolution_without_idle_strides(model)) == before


def attention(rows: int, heads: int, queries: int, keys: int, width: int, masked: bool) -> Callable[[], Any]:
    from openvino import opset13 as ops

    def make() -> Any:
        lengths = (queries, keys, keys)
        inputs = [ops.parameter([rows, length, heads * width], np.float32) for length in lengths]

        def split(i: int, *order: int) -> Any:
            shape = np.array([rows, lengths[i], heads, width])
            return ops.transpose(ops.reshape(inputs[i], shape, False), np.array(order))

        scores = ops.matmul(
            ops.multiply(split(0, 0, 2, 1, 3), np.float32(width**-0.5)), split(1, 0, 2, 3, 1), False, False
        )
        if masked:
            inputs.append(ops.parameter([keys], np.float32))
            scores = ops.add(scores, inputs[-1])
        result = ops.matmul(ops.softmax(scores, 3), split(2, 0, 2, 1, 3), False, False)
        joined = ops.reshape(
            ops.transpose(result, np.array([0, 2, 1, 3])), np.array([rows, queries, heads * width]), False
        )
        return import_openvino().Model([ops.multiply(joined, np.float32(1))], inputs, "attention")

    return make


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [4, 40])
@pytest.mark.parametrize(
    ("rows", "heads", "queries", "keys"),
    [
        *((1, 8, 8, 8), (2, 8, 8, 16), (6, 8, 8, 8), (2, 4, 4, 4), (1, 8, 16, 8), (3, 4, 6, 6)),
        *((2, 8, 24, 24), (2, 8, 8, 40), (2, 4, 12, 40)),
    ],
)
def test_attention_keys_first(
    rows: int, heads: int, queries: int, keys: int, width: int, masked: bool
) -> None:
    size = heads * width
    inputs = normal((rows, queries, size), (rows, keys, size), (rows, keys, size))
    if masked:
        inputs.append(np.where(np.arange(keys) < keys - 1, 0, -1e4).astype(np.float32))
    check(attention(rows, heads, queries, keys, width, masked), attention_keys_first, inputs, exact=False)


def test_attention_to_many_keys_is_left_as_it_is() -> None:
    for keys, axis in ((24, 2), (25, -1)):  # of the softmax: keys come first after the pass, last without it
        model = attention_keys_first(attention(2, 4, 12, keys, 16, masked=False)())
        (softmax,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax")
        assert softmax.get_attributes()["axis"] % 4 == axis % 4


def upsampling(x: tuple[int, ...], kernel: int = 3, pad: int = 1, scale: int = 2) -> Callable[[], Any]:
    """Upsampling and a convolution to twice the channels, then both once more, to 3 channels."""
    from openvino import opset13 as ops

    def make() -> Any:
        parameter = found = ops.parameter(x, np.float32)
        for outputs in (2 * x[1], 3):
            inputs, size = found.get_output_shape(0)[1], found.get_output_shape(0)[2:]
            upsampled = ops.interpolate(
                found,
                np.array([scale * side for side in size]),
                "nearest",
                "sizes",
                axes=np.array([2, 3]),
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
            weights, bias = normal((outputs, inputs, kernel, kernel), (1, outputs, 1, 1))
            convolved = ops.convolution(upsampled, weights, [1, 1], [pad, pad], [pad, pad], [1, 1])
            found = ops.add(convolved, bias)
        return import_openvino().Model([found], [parameter], "upsampling")

    return make


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (3, 7), (8, 6)])
@pytest.mark.parametrize("rows", [1, 3])
def test_convolution_before_upsampling(rows: int, size: tuple[int, int]) -> None:
    x = (rows, 8, *size)
    kinds = {
        node.get_type_name() for node in convolution_before_upsampling(upsampling(x)()).get_ordered_ops()
    }
    assert "Interpolate" not in kinds
    check(upsampling(x), convolution_before_upsampling, normal(x), exact=False)


@pytest.mark.parametrize(("kernel", "pad", "scale"), [(3, 0, 2), (3, 2, 2), (5, 2, 2), (1, 0, 2), (3, 1, 3)])
def test_other_upsamplings_are_left_as_they_are(kernel: int, pad: int, scale: int) -> None:
    model = upsampling((1, 4, 5, 6), kernel, pad, scale)()
    before = nodes(model)
    assert nodes(convolution_before_upsampling(model)) == before
