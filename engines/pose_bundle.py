"""A bundle of networks that find people: a YOLOX detector, and a whole-body network for one person.

It is made of ONNX files that users have (export/pose_bundle.py), and verified as a bundle for clips is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..text import quoted
from .bundle import SealedBundle, read_contents, verify_files
from .contract import Contract, TensorSpec
from .manifest import Contents

DETECTOR, LANDMARKS = "detector", "landmarks"
POINTS = 133  # of COCO-WholeBody
STRIDES = (8, 16, 32)  # of the detector's grids of cells
COLUMNS = 85  # of the detector's output: box, objectness, 80 classes
BINS = 2  # of SimCC, per pixel of the input
CELL = 4  # pixels of the input, per cell of a heatmap
MIN_SIDE, MAX_SIDE = 32, 2048  # pixels

Kind = Literal["simcc", "heatmaps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseNetworks:
    """Sizes of both networks' inputs in pixels, and what the whole-body network returns.

    Raises ConfigError for sizes that such networks cannot have.
    """

    detector_side: int
    width: int
    height: int
    kind: Kind

    def __post_init__(self) -> None:
        sides = {"detector_side": (self.detector_side, STRIDES[-1])}
        sides |= {"width": (self.width, CELL), "height": (self.height, CELL)}
        for name, (side, step) in sides.items():
            if not MIN_SIDE <= side <= MAX_SIDE or side % step:
                raise ConfigError(
                    f"{name}: expected a multiple of {step} from {MIN_SIDE} to {MAX_SIDE}, "
                    f"found {quoted(side)}"
                )

    def contracts(self) -> dict[str, Contract]:
        """Contracts of both networks. Pictures are float32 (1, 3, height, width)."""
        side, width, height = self.detector_side, self.width, self.height
        boxes = TensorSpec("boxes", "float32", (1, cells(side), COLUMNS))
        points = {
            "simcc": (
                TensorSpec("simcc_x", "float32", (1, POINTS, BINS * width)),
                TensorSpec("simcc_y", "float32", (1, POINTS, BINS * height)),
            ),
            "heatmaps": (TensorSpec("heatmaps", "float32", (1, POINTS, height // CELL, width // CELL)),),
        }
        return {
            DETECTOR: Contract((TensorSpec("picture", "float32", (1, 3, side, side)),), (boxes,)),
            LANDMARKS: Contract((TensorSpec("person", "float32", (1, 3, height, width)),), points[self.kind]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseManifest(Contents):
    """Description of a pose bundle. `weights` has the SHA-256 of each ONNX file that it was built from."""

    networks: PoseNetworks

    def contracts(self) -> dict[str, Contract]:
        return self.networks.contracts()

    @property
    def rebuild_command(self) -> str:
        return f"animate-rt build-poses DIR BUNDLE --backend {self.backend}"


@dataclass(frozen=True, slots=True)
class PoseBundle(SealedBundle):
    """A verified pose bundle."""

    manifest: PoseManifest


def open_pose_bundle(path: str | os.PathLike[str]) -> PoseBundle:
    """Open a pose bundle after verifying every byte of it. Raises as `open_bundle`."""
    bundle = PoseBundle(Path(path), *read_contents(path, PoseManifest, "animate-rt build-poses"))
    verify_files(bundle)
    return bundle


def cells(side: int) -> int:
    """The number of cells in all grids of the detector, for an input of this size."""
    return sum((side // stride) ** 2 for stride in STRIDES)
