"""The machine's peak rates: a large matrix product and a large copy, measured through the same backend, in
the same precision and in the same run as the engine that is compared with them."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...engines.bundle import Bundle
from ...engines.contract import ITEM_BYTES, Contract, DType, TensorSpec
from ...engines.device import Device
from ...engines.precision import PRECISIONS
from ..reporting.samples import summary
from .single_graph import example, single_engine
from .timed_engine import TimedEngine

PRODUCT = {"openvino": (4096, 2048, 2048), "tensorrt": (8192, 8192, 8192)}  # rows, inner, columns
COPY_BYTES = 256 << 20  # far beyond any cache
REPEATS = 5


class Ceilings(NamedTuple):
    """Peak rates, each from the fastest repeat, which other work on the machine disturbed least."""

    flops: float  # floating point operations per second; a multiply-add is two
    bytes: float  # read and written per second

    def as_json(self) -> dict[str, float]:
        return {"flops_per_s": self.flops, "bytes_per_s": self.bytes}


class CeilingProbes:
    """The product and the copy as loaded engines, which can be run repeatedly."""

    def __init__(self, bundle: Bundle, device: Device):
        dtype = PRECISIONS[bundle.manifest.precision].graph_dtype
        rows, inner, columns = PRODUCT[bundle.manifest.backend]
        values = COPY_BYTES // ITEM_BYTES[dtype]
        self.product_flop = 2 * rows * inner * columns
        self.product = self._load(
            bundle, "matrix_product", dtype, (rows, inner), (rows, columns), device, (inner, columns)
        )
        self.copy = self._load(bundle, "copy", dtype, (values,), (values,), device)

    def measure(self) -> Ceilings:
        product = [self.product.once()["compute"] for _ in range(REPEATS)]
        copy = [self.copy.once()["compute"] for _ in range(REPEATS)]
        return Ceilings(self.product_flop / best(product), 2 * COPY_BYTES / best(copy))

    def _load(
        self,
        bundle: Bundle,
        name: str,
        dtype: DType,
        shape: tuple[int, ...],
        result: tuple[int, ...],
        device: Device,
        weights: tuple[int, ...] | None = None,
    ) -> TimedEngine:
        contract = Contract((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, result),))

        def write(path: Path) -> None:
            write_graph(path, contract, weights)

        engine = TimedEngine(single_engine(bundle, name, contract, write, device), device)
        engine.fill({"x": example(contract.inputs[0], np.random.default_rng(0), window=1)})
        return engine


def best(seconds: list[float]) -> float:
    found = summary(seconds)["min"]
    assert found is not None
    return found


def write_graph(path: Path, contract: Contract, weights: tuple[int, ...] | None) -> None:
    """y = x @ weights, or without weights y = -x: a copy that no compiler removes."""
    import onnx

    def value(spec: TensorSpec) -> Any:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        return onnx.helper.make_tensor_value_info(spec.name, kind, spec.shape)

    constants = []
    if weights:
        dtype, scale = np.dtype(contract.inputs[0].dtype), weights[0] ** -0.5
        matrix = np.random.default_rng(1).standard_normal(prod(weights), np.float32) * np.float32(scale)
        constants = [onnx.numpy_helper.from_array(matrix.reshape(weights).astype(dtype), "weights")]
        node = onnx.helper.make_node("MatMul", ["x", "weights"], ["y"])
    else:
        node = onnx.helper.make_node("Neg", ["x"], ["y"])
    inputs, outputs = [value(spec) for spec in contract.inputs], [value(spec) for spec in contract.outputs]
    graph = onnx.helper.make_graph([node], path.stem, inputs, outputs, constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)]), path)
