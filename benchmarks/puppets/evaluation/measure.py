"""Quality of the small model on held-out scenes, beside baselines, and with parts of it disabled.

python -m animate_rt.benchmarks.puppets.evaluation.measure FOLDER RESULT.json SHEET.png

Bundles are built and kept in FOLDER. They compute in bfloat16 where the CPU supports it; `tradeoffs.py`
compares it with float32.

`animate-rt bench report RESULT.json --page weights/puppets/README.md` writes its table into the model card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from PIL import Image, ImageDraw

from ....engines.bundle import open_bundle
from ....export import load_checkpoint
from ....export.networks.vae import VAE
from ....runtime.animator import Animator
from ....runtime.media.picture import write_png
from ...reporting.result import Result, describe_engines
from ..training.autoencoder import decode, encoder
from ..training.model import FEW_STEP_WEIGHTS, FEW_STEPS_SAMPLING, SAMPLING, SIZE, WEIGHTS
from ..training.stage import to_pictures
from ..world.scene import Picture
from .truth import Truth, held_out, mean_figures
from .variants import build, in_fastest_precision, load_without_input, without_motion

SCENES, FRAMES = 12, 24
SHOWN = 8  # scenes on the sheet
MOMENT = 12  # the frame that the sheet shows of each scene
HEADER = 28  # pixels above the sheet, for two lines of at most WIDTH letters
WIDTH = 20

Make = Callable[[Truth], Picture]  # (n, H, W, 3)


def rows_of(folder: Path) -> Iterator[tuple[str, Make]]:
    """Names of what is measured, each with a function that makes the frames of a scene.

    Bundles are built in `folder`. One animator is open at a time.
    """
    yield "the reference, copied", lambda truth: np.repeat(truth.reference[None], len(truth.frames), axis=0)
    yield "each frame's mean colour", mean_colours
    yield "the VAE alone, on true frames", autoencoded(load_checkpoint(WEIGHTS).vae)
    steps, few_steps = SAMPLING["steps"], FEW_STEPS_SAMPLING["steps"]
    whole = open_bundle(in_fastest_precision(build(WEIGHTS, folder / "whole")))
    with Animator(whole) as animator:
        yield f"**{steps} steps, guidance**", animated(animator)
    few = build(FEW_STEP_WEIGHTS, folder / "few-steps", base=WEIGHTS)
    with Animator.load(in_fastest_precision(few)) as animator:
        yield f"**{few_steps} steps, no guidance**", animated(animator)
    with load_without_input(whole, "guidance_scale") as animator:
        yield f"{steps} steps without reference", animated(animator)
    with load_without_input(whole, "pose_features") as animator:
        yield f"{steps} steps without poses", animated(animator)
    silent = without_motion(WEIGHTS, folder / "silent")
    with Animator.load(in_fastest_precision(build(silent, folder / "without-motion"))) as animator:
        yield f"{steps} steps without motion modules", animated(animator)


def mean_colours(truth: Truth) -> Picture:
    colours = truth.frames.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(colours, truth.frames.shape)


def autoencoded(vae: VAE) -> Make:
    @torch.no_grad()
    def make(truth: Truth) -> Picture:
        return to_pictures(decode(vae, torch.tensor(encoder(vae)(truth.frames))))

    return make


def animated(animator: Animator) -> Make:
    return lambda truth: np.stack(list(animator.animate(truth.reference, truth.poses)))


def measure(truths: list[Truth], folder: Path) -> tuple[Result, Picture]:
    """The figures of every row, averaged over scenes, and a contact sheet."""
    rows, by_scene = [], {}
    columns = [
        ("reference", [truth.reference for truth in truths[:SHOWN]]),
        ("pose", [truth.poses[MOMENT] for truth in truths[:SHOWN]]),
        ("true", [truth.frames[MOMENT] for truth in truths[:SHOWN]]),
    ]
    for name, make in rows_of(folder):
        figures, shown = [], []
        for i, truth in enumerate(truths):
            made = make(truth)
            figures.append(truth.figures(made))
            shown.append(made[MOMENT])
            print(f"\r{name}: scene {i + 1} of {len(truths)}", end="", file=sys.stderr, flush=True)
        rows.append({"name": name, **mean_figures(figures)})
        by_scene[name] = [one["psnr_db"] for one in figures]
        print(f"\r{json.dumps(rows[-1])}", file=sys.stderr)
        columns.append((name.strip("*"), shown[:SHOWN]))
    result = Result(
        kind="puppets",
        workload={"scenes": len(truths), "frames": len(truths[0].frames), "size": SIZE, "split": "held-out"},
        results={"tables": [{"title": "Held-out scenes", "rows": rows}], "psnr_by_scene": by_scene},
        engines=describe_engines(open_bundle(in_fastest_precision(folder / "whole"))),
    )
    return result, sheet(columns)


def sheet(columns: list[tuple[str, list[Picture]]]) -> Picture:
    """One row per scene, below a header with the names of the columns."""
    body = np.concatenate([np.concatenate(pictures) for _, pictures in columns], axis=1)
    header = Image.new("RGB", (body.shape[1], HEADER), "white")
    draw = ImageDraw.Draw(header)
    for i, (name, _) in enumerate(columns):
        draw.text((i * SIZE + 2, 1), fill(name, WIDTH), fill="black", spacing=1)
    return np.concatenate([np.asarray(header), body])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args()
    result, picture = measure(held_out(options.scenes, FRAMES, SIZE), options.folder)
    write_png(options.sheet, picture)
    result.write(options.result)


if __name__ == "__main__":
    main()
