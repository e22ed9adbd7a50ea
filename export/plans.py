"""TensorRT plans of graphs in a bundle's folder: from the plan cache, or compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx

from ..engines.contract import Memory
from ..engines.cuda.plan import PlanOptions, build_plan, plan_key
from ..engines.cuda.plan_cache import PlanCache


def compile_graph(
    folder: Path, graph: str, options: PlanOptions, progress: Callable[[str], None]
) -> Memory | None:
    """Write the plan of one graph into a bundle's folder, from the plan cache or else by compiling it."""
    source, plan = folder / "graphs" / f"{graph}.onnx", folder / "engines" / f"{graph}.plan"
    what = f"compile {graph}"
    progress(what)

    def report(detail: str) -> None:
        progress(f"{what}: {detail}" if detail else what)

    key = plan_key(graph_digest(source), options)
    return PlanCache().fill(key, plan, partial(build_plan, source, plan, options, report))


def graph_digest(path: Path) -> str:
    """SHA-256 of an ONNX file and its external weights, independent of where these are stored."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            stored = {entry.key: entry.value for entry in tensor.external_data}
            with (path.parent / stored["location"]).open("rb") as file:
                file.seek(int(stored["offset"]))
                content = file.read(int(stored["length"]))
            del tensor.external_data[:]
            tensor.raw_data = hashlib.sha256(content).digest()
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
