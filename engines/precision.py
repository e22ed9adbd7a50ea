"""Precisions: the number formats that engines compute in, with a table of their properties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .contract import CACHING, DType

Backend = Literal["openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionProperties:
    """Properties of a precision."""

    backends: tuple[Backend, ...]  # that support it
    graph_dtype: DType  # of weights in the ONNX files, and of features, keys and values between graphs
    tolerance: float  # of `verify`: largest difference from ONNX Runtime / largest value
    rewrite_tolerance: float  # the same for `bench ablate`: a graph with and without one rewrite


# Only OpenVINO computes in bf16: it converts float32 graphs when it compiles them. In int8 it computes the
# convolutions and linear layers of QUANTIZED, and all else in bf16, or in fp32 on a CPU without that.
# Differences measured by `verify` on small models: OpenVINO in float32 4e-6, in bfloat16 4e-2, in int8 1e-1;
# ONNX Runtime's float16 against its own float32 3e-3.
QUANTIZED = (*CACHING, *CACHING.values())  # graphs that are quantized in precision int8: the whole UNets
PRECISIONS: dict[Precision, PrecisionProperties] = {
    "fp32": PrecisionProperties(
        backends=("openvino", "tensorrt"), graph_dtype="float32", tolerance=1e-4, rewrite_tolerance=5e-3
    ),
    "fp16": PrecisionProperties(
        backends=("tensorrt",), graph_dtype="float16", tolerance=1e-2, rewrite_tolerance=3e-2
    ),
    "bf16": PrecisionProperties(
        backends=("openvino",), graph_dtype="float32", tolerance=1e-1, rewrite_tolerance=1e-1
    ),
    "int8": PrecisionProperties(
        backends=("openvino",), graph_dtype="float32", tolerance=3e-1, rewrite_tolerance=3e-1
    ),
}
DEFAULT_PRECISION: dict[Backend, Precision] = {"openvino": "fp32", "tensorrt": "fp16"}
