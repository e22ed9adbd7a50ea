"""Quality of frames, where the true frames are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..engines.device import Array
from ..errors import InputError
from ..runtime.media.pose_sequence import open_pose
from .instruments.accuracy import compare_frames, read_lpips
from .reporting.result import Result

MEASURES = ("psnr_db", "ssim", "lpips", "flicker")


def bench_quality(ours: Path, truth: Path, lpips: Path | None) -> Result:
    """Compare two videos, two directories of frames, or two folders of either, paired by name.

    `lpips` is a folder with the public weights of LPIPS. Raises InputError if names, sizes or lengths differ.
    """
    distance = read_lpips(lpips) if lpips else None
    rows = []
    for name, a, b in clips(ours, truth):
        try:
            rows.append({"name": name, **compare_frames(read_frames(a), read_frames(b), distance)})
        except InputError as error:
            raise type(error)(f"{name}: {error}") from error
    return Result(
        kind="quality",
        workload={"ours": ours.name, "truth": truth.name, "clips": len(rows)},
        results={"rows": rows, "mean": {measure: mean(rows, measure) for measure in MEASURES}},
    )


def clips(ours: Path, truth: Path) -> Iterator[tuple[str, Path, Path]]:
    """The pairs to compare: name, ours, truth."""
    found, wanted = videos_in(ours), videos_in(truth)
    if not found or not wanted:
        yield ours.name, ours, truth
        return
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        raise InputError(
            f"expected the same names in {ours} and {truth}, found in only one of them: {', '.join(odd[:3])}"
        )
    for name in sorted(found):
        yield name, found[name], wanted[name]


def videos_in(folder: Path) -> dict[str, Path]:
    """Videos and directories of frames in a folder, by name; empty if the folder holds frames itself."""
    if not folder.is_dir():
        return {}
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    videos = {entry.stem: entry for entry in entries if entry.suffix in (".mp4", ".mov", ".webm")}
    return videos | {entry.name: entry for entry in entries if entry.is_dir()}


def read_frames(path: Path) -> Iterator[Array]:
    """Frames of a video or directory, uint8 (H, W, 3). Raises InputMissing or InputError."""
    return (np.asarray(picture) for picture in open_pose(path, None))


def mean(rows: list[dict[str, float | None]], measure: str) -> float | None:
    """The mean over all clips; None if one has no value: identical frames have no PSNR."""
    values = [row[measure] for row in rows]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
