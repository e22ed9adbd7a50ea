"""The cost of building a bundle: seconds and memory of every stage, and bytes of every graph and plan.

python -m animate_rt.benchmarks.build sd15 --width 512 --height 768 --window 24 --output FILE.json

Writes a checkpoint of random weights, exports it in float16, compiles every plan with an empty cache, and
deletes everything. Memory is the resident size from /proc, sampled, of this process and of the compiling one;
mapped files count in both, so their sum is an upper bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ..atomic import write_text
from ..engines.bundle import Bundle, open_bundle
from ..engines.contract import DENOISING_UNET
from ..export import build_bundle
from .instruments import host
from .instruments.multiply_adds import multiply_adds
from .random_checkpoint import SIZES

SCHEMA = 2
INTERVAL_S = 0.05


@dataclass(slots=True)
class Stage:
    """One stage of `build_bundle`, and the peak resident memory during it."""

    name: str
    seconds: float = 0.0
    peak_bytes: int = 0
    peak_child_bytes: int = 0
    peak_sum_bytes: int = 0

    def sample(self) -> None:
        own, child = resident(os.getpid()), sum(map(resident, children()))
        self.peak_bytes = max(self.peak_bytes, own)
        self.peak_child_bytes = max(self.peak_child_bytes, child)
        self.peak_sum_bytes = max(self.peak_sum_bytes, own + child)


class Stages(Thread):
    """Samples memory during a build; `begin` is the progress callback to pass to it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stages: list[Stage] = []
        self.began_s = 0.0
        self.done = Event()

    def begin(self, what: str) -> None:
        name = what.partition(": ")[0]
        if not self.stages or self.stages[-1].name != name:
            self.end()
            self.stages.append(Stage(name))

    def end(self) -> None:
        now = time.perf_counter()
        if self.stages:
            self.stages[-1].seconds = now - self.began_s
        self.began_s = now

    def run(self) -> None:
        while not self.done.wait(INTERVAL_S):
            for stage in self.stages[-1:]:
                stage.sample()


def measure(size: str, width: int, height: int, window: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="animate-rt-build-") as name:
        folder = Path(name)
        checkpoint = folder / "checkpoint"
        os.environ["XDG_CACHE_HOME"] = os.fspath(folder / "cache")  # empty, and deleted with the folder
        began = time.perf_counter()
        maker = [sys.executable, "-m", "animate_rt.benchmarks.random_checkpoint", size, os.fspath(checkpoint)]
        subprocess.run(maker, check=True)
        checkpoint_s = time.perf_counter() - began
        stages = Stages()
        stages.start()
        build_bundle(
            checkpoint,
            folder / "bundle",
            width=width,
            height=height,
            window=window,
            backend="tensorrt",
            inference_config=checkpoint / "inference.yaml",
            progress=stages.begin,
        )
        stages.end()
        stages.done.set()
        stages.join()
        return {
            "schema": SCHEMA,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": host.commit(),
            "host": host.describe(),
            "size": size,
            "random_checkpoint_s": checkpoint_s,
            "build_s": sum(stage.seconds for stage in stages.stages),
            "peak_bytes": max(stage.peak_bytes for stage in stages.stages),
            "peak_child_bytes": max(stage.peak_child_bytes for stage in stages.stages),
            "peak_sum_bytes": max(stage.peak_sum_bytes for stage in stages.stages),
            "stages": [dataclasses.asdict(stage) for stage in stages.stages],
            **contents(open_bundle(folder / "bundle")),
        }


def contents(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    frames = manifest.bucket.window
    graphs = {}
    for graph in manifest.graphs:
        count = multiply_adds(bundle.graph(graph))
        memory = manifest.memory.get(graph)
        graphs[graph] = {
            "graph_bytes": manifest.files[f"graphs/{graph}.onnx"].num_bytes,
            "plan_bytes": manifest.files[manifest.engine(graph)].num_bytes,
            "memory": memory and dataclasses.asdict(memory),
            "multiply_adds": count,
            **({"multiply_adds_per_frame": count / frames} if graph.startswith(DENOISING_UNET) else {}),
        }
    return {
        "bucket": dataclasses.asdict(manifest.bucket),
        "precision": manifest.precision,
        "backend_version": manifest.backend_version,
        "compute_capabilities": manifest.compute_capabilities,
        "bundle_bytes": sum(file.num_bytes for file in manifest.files.values()),
        "graphs": graphs,
    }


def children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for line in host.lines(task / "children") for pid in line.split()]


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 if it has ended."""
    sizes = [int(line.split()[1]) for line in host.lines(f"/proc/{pid}/status") if line.startswith("VmRSS")]
    return 1024 * sum(sizes)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("size", choices=SIZES)
    for option in ("--width", "--height", "--window"):
        arguments.add_argument(option, type=int, required=True)
    arguments.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    options = arguments.parse_args()
    record = measure(options.size, options.width, options.height, options.window)
    write_text(options.output, json.dumps(record, indent=1) + "\n")
    gigabytes, minutes = record["peak_sum_bytes"] / 1e9, record["build_s"] / 60
    print(f"{options.output}: built in {minutes:.1f} minutes with up to {gigabytes:.1f} GB")


if __name__ == "__main__":
    main()
