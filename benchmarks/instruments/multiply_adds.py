"""Multiply-adds of a bundle's graphs, counted from the ONNX files and so independent of the backend.

python -m animate_rt.benchmarks.instruments.multiply_adds BUNDLE
"""

from __future__ import annotations

import argparse
from math import prod
from pathlib import Path

import onnx

from ...engines.bundle import open_bundle
from ...engines.contract import DENOISING_UNET, DENOISING_UNET_CONDITIONAL

Shape = tuple[int, ...]


def multiply_adds(path: Path) -> int:
    """Multiply-adds of the matrix products, convolutions and attentions of an ONNX file with static shapes.

    Other operators are not counted. The weights are not read.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)
    shapes = known_shapes(model.graph)
    return sum(node_multiply_adds(node, shapes) for node in model.graph.node)


def known_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {v.name: tuple(dim.dim_value for dim in v.type.tensor_type.shape.dim) for v in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def node_multiply_adds(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-adds of a node: its output values, times the terms summed for each of them."""
    match node.op_type:
        case "MatMul":
            return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        case "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
        case "Conv":  # weights are (out, in per group, *kernel)
            return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
        case "Attention":  # (N, heads, tokens, width)
            rows, heads, queries, width = shapes[node.input[0]]
            keys, value_width = shapes[node.input[2]][2:]
            return rows * heads * queries * keys * (width + value_width)
        case _:
            return 0


def report(bundle: Path) -> str:
    opened = open_bundle(bundle)
    frames = opened.manifest.bucket.window
    lines = []
    for graph in opened.manifest.graphs:
        total = multiply_adds(opened.graph(graph)) / 1e9
        per_frame = f"  {total / frames:10.3f} per frame" if graph.startswith(DENOISING_UNET) else ""
        lines.append(f"{graph:{len(DENOISING_UNET_CONDITIONAL)}}  {total:12.3f} GMAC{per_frame}")
    return "\n".join(lines)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("bundle", type=Path)
    print(report(arguments.parse_args().bundle))
