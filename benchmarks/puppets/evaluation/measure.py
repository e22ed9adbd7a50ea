"""Quality of the small model on held-out scenes, beside baselines, and with parts of it disabled.

python -m animate_rt.benchmarks.puppets.evaluation.measure FOLDER RESULT.json SHEET.png STRIPS.png

SHEET.png shows one frame of each scene, STRIPS.png consecutive frames of soft scenes, whose frames depend on
those before. Bundles are built and kept in FOLDER. They compute in bfloat16 where the CPU supports it;
`tradeoffs.py` compares it with float32.

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
from ...reporting.result import JSON, Result, describe_engines
from ..training.autoencoder import decode, encoder
from ..training.model import (
    FEW_STEP_WEIGHTS,
    FEW_STEPS_SAMPLING,
    SAMPLING,
    SHIPPED,
    SIZE,
    WEIGHTS,
)
from ..training.stage import to_pictures
from ..world.scene import Picture
from .truth import Truth, held_out, mean_figures
from .variants import build, in_fastest_precision, load_without_input, without_motion

SCENES, FRAMES = 12, 24
SHOWN = 8  # scenes on the sheet
MOMENT = 12  # the frame that the sheet shows of each scene
STRIPS, STRIP = 3, range(4, 12)  # soft scenes, and frames of each
HEADER = 28  # pixels above the sheet, for two lines of at most WIDTH letters
WIDTH = 20

Make = Callable[[Truth], Picture]  # (n, H, W, 3)


def rows_of(folder: Path, weights: Path = SHIPPED) -> Iterator[tuple[str, Make]]:
    """Names of what is measured, each with a function that makes the frames of a scene.

    Bundles are built in `folder`, from two checkpoints in `weights`. One animator is open at a time.
    """
    checkpoint, few_checkpoint = weights / WEIGHTS.name, weights / FEW_STEP_WEIGHTS.name
    yield "the reference, copied", lambda truth: np.repeat(truth.reference[None], len(truth.frames), axis=0)
    yield "each frame's mean colour", mean_colours
    yield "the VAE alone, on true frames", autoencoded(load_checkpoint(checkpoint).vae)
    steps, few_steps = SAMPLING["steps"], FEW_STEPS_SAMPLING["steps"]
    whole = open_bundle(in_fastest_precision(build(checkpoint, folder / "whole")))
    with Animator(whole) as animator:
        yield f"**{steps} steps, guidance**", animated(animator)
    few = build(few_checkpoint, folder / "few-steps", base=checkpoint)
    with Animator.load(in_fastest_precision(few)) as animator:
        yield f"**{few_steps} steps, no guidance**", animated(animator)
    with load_without_input(whole, "guidance_scale") as animator:
        yield f"{steps} steps without reference", animated(animator)
    with load_without_input(whole, "pose_features") as animator:
        yield f"{steps} steps without poses", animated(animator)
    silent = without_motion(checkpoint, folder / "silent")
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


def measure(
    truths: list[Truth], soft: list[Truth], folder: Path, weights: Path = SHIPPED
) -> tuple[Result, Picture, Picture]:
    """The figures of every row, averaged over scenes, a contact sheet, and strips of soft scenes."""
    groups = {"Held-out scenes": truths, "Held-out soft scenes": soft}
    tables: dict[str, list[JSON]] = {title: [] for title in groups}
    by_scene: dict[str, dict[str, list[float]]] = {title: {} for title in groups}
    columns = [
        ("reference", [truth.reference for truth in truths[:SHOWN]]),
        ("pose", [truth.poses[MOMENT] for truth in truths[:SHOWN]]),
        ("true", [truth.frames[MOMENT] for truth in truths[:SHOWN]]),
    ]
    strips = [("true", [truth.frames for truth in soft[:STRIPS]])]
    for name, make in rows_of(folder, weights):
        for title, group in groups.items():
            figures, clips = [], []
            for i, truth in enumerate(group):
                clips.append(make(truth))
                figures.append(truth.figures(clips[-1]))
                done = f"{name}: {title}, {i + 1} of {len(group)}"
                print(f"\r{done:<78}", end="", file=sys.stderr, flush=True)
            tables[title].append({"name": name, **mean_figures(figures)})
            by_scene[title][name] = [one["psnr_db"] for one in figures]
            print(f"\r{title}: {json.dumps(tables[title][-1])}", file=sys.stderr)
            if group is truths:
                columns.append((name.strip("*"), [clip[MOMENT] for clip in clips[:SHOWN]]))
            else:
                strips.append((name.strip("*"), clips[:STRIPS]))
    result = Result(
        kind="puppets",
        workload={"scenes": len(truths), "frames": len(truths[0].frames), "size": SIZE, "split": "held-out"},
        results={
            "tables": [{"title": title, "rows": rows} for title, rows in tables.items()],
            "psnr_by_scene": by_scene,
        },
        engines=describe_engines(open_bundle(in_fastest_precision(folder / "whole"))),
    )
    return result, sheet(columns), strips_of(strips)


def strips_of(clips: list[tuple[str, list[Picture]]]) -> Picture:
    """For each scene a row of consecutive frames per clip, with the clip's name in front."""
    rows = []
    for scene in range(len(clips[0][1])):
        for name, pictures in clips:
            label = Image.new("RGB", (SIZE, SIZE), "white")
            ImageDraw.Draw(label).text((2, 1), fill(name, WIDTH), fill="black", spacing=1)
            rows.append(
                np.concatenate([np.asarray(label), *pictures[scene][STRIP.start : STRIP.stop]], axis=1)
            )
    return np.concatenate(rows)


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
    parser.add_argument("strips", type=Path)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument(
        "--weights", type=Path, default=SHIPPED, help="folder of both checkpoints, as training writes them"
    )
    options = parser.parse_args()
    truths, soft = (held_out(options.scenes, FRAMES, SIZE, split) for split in ("held-out", "held-out-soft"))
    result, picture, strips = measure(truths, soft, options.folder, options.weights)
    write_png(options.sheet, picture)
    write_png(options.strips, strips)
    result.write(options.result)


if __name__ == "__main__":
    main()
