"""CPU time of one graph by kind of operator, from OpenVINO's performance counters.

python -m animate_rt.benchmarks.instruments.operators BUNDLE [GRAPH]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.bundle import Bundle, open_bundle
from ...engines.contract import DENOISING_UNET
from ...engines.cpu.openvino import compile_model, import_openvino
from ...engines.manifest import WEIGHTS
from .single_graph import example

RUNS, WARM_UP = 4, 2
# By OpenVINO's node type. Attention to many keys is one Subgraph node, named after one of its products.
KINDS = {
    "FullyConnected": "linear layers",
    "Convolution": "convolutions",
    "MatMul": "attention to few keys",
    "Softmax": "attention to few keys",
    "Transpose": "changes of layout",
    "Reorder": "changes of layout",
    "Concat": "changes of layout",
    "DepthToSpace": "changes of layout",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("graph", nargs="?", default=DENOISING_UNET)
    given = parser.parse_args()
    milliseconds = by_kind(open_bundle(given.bundle), given.graph)
    total = sum(milliseconds.values())
    for kind, value in Counter(milliseconds).most_common():
        print(f"{kind:24} {value:8.1f} ms {value / total:5.0%}")


def by_kind(bundle: Bundle, graph: str) -> dict[str, float]:
    """Milliseconds per run for each kind of operator, the mean of RUNS runs."""
    ov, manifest = import_openvino(), bundle.manifest
    core = ov.Core()
    core.set_property("CPU", {"PERF_COUNT": "YES"})
    model = core.read_model(bundle.engine(graph), bundle.path / WEIGHTS)
    request = compile_model(core, model, manifest.precision).create_infer_request()
    generator = np.random.default_rng(0)
    for spec in manifest.graphs[graph].inputs:
        request.set_tensor(spec.name, ov.Tensor(example(spec, generator, manifest.bucket.window)))
    found: Counter[str] = Counter()
    for run in range(WARM_UP + RUNS):
        request.infer()
        if run >= WARM_UP:
            for node in request.get_profiling_info():
                found[kind_of(node)] += node.real_time.total_seconds() * 1e3 / RUNS
    return dict(found)


def kind_of(node: Any) -> str:
    if node.node_type == "Subgraph" and "matmul" in node.node_name:
        return "attention"
    return KINDS.get(node.node_type, "elementwise and norms")


if __name__ == "__main__":
    main()
