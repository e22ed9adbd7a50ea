"""Quality against the number of UNet evaluations: the small model with each solver and with feature caching.

python -m animate_rt.benchmarks.puppets.evaluation.evaluations FOLDER RESULT.json

A bundle is built and kept in FOLDER. It computes in bfloat16 where the CPU supports it.
`animate-rt bench report RESULT.json --page docs/quality.md` writes its table into the page for users.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ....engines.bundle import open_bundle
from ....runtime.animator import Animator
from ...reporting.result import Result, describe_engines
from ..training.model import SIZE, WEIGHTS
from .tradeoffs import FRAMES, SCENES, Group, Options, Setting, measured
from .truth import held_out
from .variants import build, in_fastest_precision

STEPS = {"ddim": (50, 25, 15, 12, 10), "dpm++2m": (15, 12, 10, 8), "unipc": (15, 12, 10, 8)}
INTERVALS = (2, 3, 5)


def settings() -> dict[str, Options]:
    """The options of each row, by name."""
    solvers: dict[str, Options] = {
        f"{solver}, {steps} steps": {"solver": solver, "steps": steps}
        for solver, counts in STEPS.items()
        for steps in counts
    }
    cached: dict[str, Options] = {
        f"ddim, 25 steps, cache interval {interval}": {"steps": 25, "cache_interval": interval}
        for interval in INTERVALS
    }
    return solvers | cached


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args()
    bundle = in_fastest_precision(build(WEIGHTS, options.folder / "caching", feature_cache=True))
    with Animator.load(bundle) as animator:
        rows = [Setting(name, animator, each) for name, each in settings().items()]
        group = Group("Solvers and feature caching, with guidance", rows, compared=True)
        table = measured(group, held_out(options.scenes, FRAMES, SIZE))
    result = Result(
        kind="puppets",
        workload={"scenes": options.scenes, "frames": FRAMES, "size": SIZE, "split": "held-out"},
        results={"tables": [{"title": group.title, "rows": table}]},
        engines=describe_engines(open_bundle(bundle)),
    )
    result.write(options.result)


if __name__ == "__main__":
    main()
