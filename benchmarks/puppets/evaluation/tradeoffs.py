"""Quality against time: the small model at every precision, window policy, number of steps and guidance.

python -m animate_rt.benchmarks.puppets.evaluation.tradeoffs FOLDER RESULT.json

Bundles are built and kept in FOLDER. Except in the first table they compute in bfloat16 where the CPU
supports it.
`animate-rt bench report RESULT.json --page docs/quality.md` writes its tables into the page for users.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

from ....engines.bundle import open_bundle
from ....engines.contract import CACHING, DENOISING_UNET, DENOISING_UNET_CONDITIONAL
from ....runtime.animator import Animator
from ...instruments.accuracy import psnr
from ...reporting.result import JSON, Result, describe_engines
from ..training.model import FEW_STEP_WEIGHTS, SAMPLING, SIZE, WEIGHTS
from ..training.stage import Figures
from .truth import Truth, held_out, mean_figures
from .variants import build, in_fastest_precision, in_float16

SCENES, FRAMES = 4, 24
STEPS = (25, 50, 15, 10, 8, 6, 5, 4)
FEW = (8, 6, 5, 4, 3, 2, 1)
SCALES = (2.0, 1.0, 1.5, 2.5, 3.5, 5.0)
INTERVALS = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.0, 0.25), (0.25, 0.75))
OVERLAPS = (0, 2, 4, 8)
WARM_UP = {"steps": 2, "cache_interval": 1}


Options = Mapping[str, Any]  # keyword arguments of `Animator.animate`


class Setting(NamedTuple):
    name: str
    animator: Animator
    options: Options


class Group(NamedTuple):
    """Settings that differ in one thing; costs are relative to the first."""

    title: str
    settings: list[Setting]
    compared: bool = False  # whether rows state how close their frames are to those of the first


def groups(folder: Path) -> Iterator[Group]:
    """Yield one group after another; measure it before taking the next, which may close its animators.

    Bundles are built in `folder`.
    """
    whole = build(WEIGHTS, folder / "whole")
    with Animator.load(in_fastest_precision(whole)) as animator:
        with (
            Animator.load(whole) as float32,
            in_float16(WEIGHTS, folder / "float16") as float16,
            Animator.load(build(WEIGHTS, folder / "int8", precision="int8")) as int8,
        ):
            found = {"float32": float32, "float16, in ONNX Runtime": float16}
            if precision_of(animator) != "fp32":
                found[precision_of(animator)] = animator
            found["int8"] = int8
            settings = [Setting(name, which, {}) for name, which in found.items()]
            yield Group("Precision", settings, compared=True)

        def varied(title: str, settings: Mapping[str, Options]) -> Group:
            return Group(title, [Setting(name, animator, options) for name, options in settings.items()])

        yield varied("Steps, with guidance", {f"{n} steps": {"steps": n} for n in STEPS})
        few_steps = build(FEW_STEP_WEIGHTS, folder / "few-steps", base=WEIGHTS)
        with Animator.load(in_fastest_precision(few_steps)) as few:
            settings = [Setting(f"{n} steps", few, {"steps": n}) for n in FEW]
            settings.insert(0, Setting("the other set, with guidance", animator, {}))
            yield Group("Few-step weights, without guidance", settings)
        yield varied("Guidance scale", {f"{scale:g}": {"guidance_scale": scale} for scale in SCALES})
        yield varied(
            f"Guidance of {SAMPLING['guidance_scale']:g} in part of the schedule",
            {f"from {a:.0%} to {b:.0%}": {"guidance_interval": (a, b)} for a, b in INTERVALS},
        )
        yield varied(
            "Windows and overlap",
            {
                f"{windows}, overlap {overlap}": {"windows": windows, "overlap": overlap}
                for windows in ("uniform", "open")
                for overlap in OVERLAPS
            },
        )


def measured(group: Group, truths: list[Truth]) -> list[JSON]:
    """A row per setting, averaged over scenes. Settings alternate scene by scene, so that changes in the
    machine's speed affect all of them; a first clip of two steps, which loads engines, is not measured."""
    figures: list[list[Figures]] = [[] for _ in group.settings]
    errors: list[list[float]] = [[] for _ in group.settings]  # mean squares, from the first setting's frames
    seconds, cpu_seconds, evaluations = np.zeros((3, len(group.settings)))
    first = truths[0].frames
    for turn, truth in enumerate([truths[0], *truths]):
        for i, setting in enumerate(group.settings):
            before, start, cpu_start = unet_evaluations(setting.animator), perf_counter(), process_time()
            options = setting.options if turn else {**setting.options, **WARM_UP}
            clip = setting.animator.animate(truth.reference, truth.poses, **options)
            made = np.stack(list(clip))
            if turn:
                seconds[i] += perf_counter() - start
                cpu_seconds[i] += process_time() - cpu_start
                evaluations[i] += unet_evaluations(setting.animator) - before
                figures[i].append(truth.figures(made))
                first = made if i == 0 else first
                errors[i].append(float(((made.astype(np.float32) - first) ** 2).mean()))
            done = f"{group.title}: {setting.name}, scene {turn} of {len(truths)}"
            print(f"\r{done:<78}", end="", file=sys.stderr, flush=True)
    return [
        {
            "name": setting.name,
            **mean_figures(figures[i]),
            **({"first_db": psnr(float(np.mean(errors[i])))} if group.compared and i else {}),
            "unet_evaluations": evaluations[i] / len(truths),
            "time_ratio": seconds[i] / seconds[0],
            "cpu_time_ratio": cpu_seconds[i] / cpu_seconds[0],
        }
        for i, setting in enumerate(group.settings)
    ]


def precision_of(animator: Animator) -> str:
    return animator.bundle.manifest.precision


def unet_evaluations(animator: Animator) -> int:
    """Windows that the whole UNet has denoised so far; those with guidance count twice."""
    runs = {graph: engine.runs for graph, engine in animator.session.engines.items()}
    guided, plain = ((unet, CACHING[unet]) for unet in (DENOISING_UNET, DENOISING_UNET_CONDITIONAL))
    return sum(2 * runs.get(graph, 0) for graph in guided) + sum(runs.get(graph, 0) for graph in plain)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args()
    truths = held_out(options.scenes, FRAMES, SIZE)
    tables = []
    for group in groups(options.folder):
        tables.append({"title": group.title, "rows": measured(group, truths)})
        print(f"\r{json.dumps(tables[-1], indent=1)}", file=sys.stderr)
    result = Result(
        kind="puppets",
        workload={"scenes": options.scenes, "frames": FRAMES, "size": SIZE, "split": "held-out"},
        results={"tables": tables},
        engines=describe_engines(open_bundle(in_fastest_precision(options.folder / "whole"))),
    )
    result.write(options.result)


if __name__ == "__main__":
    main()
