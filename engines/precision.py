"""Precisions: the number formats that engines compute in, one row for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .contract import DType

Backend = Literal["openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """What follows from a precision."""

    backends: tuple[Backend, ...]  # that compute in it
    graph_dtype: DType  # of weights in the ONNX files, and of features, keys and values between graphs
    tolerance: float  # of `verify`: largest difference from ONNX Runtime over the largest value
    rewrite_tolerance: float  # the same of `bench ablate`: a graph against the same without one rewrite


# bf16 is OpenVINO's own: it converts when it compiles, and its graphs stay float32. Measured by `verify` on
# small models: OpenVINO in float32 4e-6, in bfloat16 4e-2; ONNX Runtime's float16 against its float32 3e-3.
PRECISIONS: dict[Precision, Numerics] = {
    "fp32": Numerics(
        backends=("openvino", "tensorrt"), graph_dtype="float32", tolerance=1e-4, rewrite_tolerance=5e-3
    ),
    "fp16": Numerics(backends=("tensorrt",), graph_dtype="float16", tolerance=1e-2, rewrite_tolerance=3e-2),
    "bf16": Numerics(backends=("openvino",), graph_dtype="float32", tolerance=1e-1, rewrite_tolerance=1e-1),
}
DEFAULT_PRECISION: dict[Backend, Precision] = {"openvino": "fp32", "tensorrt": "fp16"}
