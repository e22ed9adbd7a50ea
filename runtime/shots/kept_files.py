"""The files of a partial clip, frames and snapshots: checked when they are read, as anything may be there."""

from __future__ import annotations

import zipfile
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.device import Array
from ...engines.files import open_regular
from ..clip.caching import kept_features
from ..clip.layout import Layout, Segment
from ..clip.options import ClipSettings
from ..clip.snapshot import Snapshot
from ..clip.solvers import num_estimates
from ..clip.windows import KnownLength
from ..media.picture import Frame

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
RGB = 2  # colour type of a PNG
FEATURES = "features"  # begins the names of cached features in a snapshot


class NotOfThisClip(RuntimeError):
    """The kept files led to another number of frames than the clip has."""


def write_snapshot(path: Path, snapshot: Snapshot, digest: str) -> None:
    """Write a snapshot of the clip with that digest; not atomically. Raises OSError."""
    arrays: dict[str, Any] = {
        f"{kind}{place}_{number}": array
        for kind, parts in (("", snapshot.segments), (FEATURES, snapshot.features))
        for number, buffers in parts.items()
        for place, array in enumerate(buffers)
    }
    position = np.array([snapshot.num_tasks, snapshot.first_frame])
    with path.open("wb") as file:
        np.savez(file, position=position, clip=np.array(digest), **arrays)


def read_snapshot(path: Path, digest: str) -> Snapshot:
    """Read a snapshot; an empty one if the file is missing, damaged, or of a clip of another digest."""
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    return (
                        Snapshot()
                    )  # ours are not compressed, so that none takes more memory than room on disk
            with np.load(file, allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}  # checks the CRC of each
        position = arrays.pop("position")
        if str(arrays.pop("clip")) != digest or position.shape != (2,) or position.dtype.kind != "i":
            return Snapshot()
        segments: dict[int, list[Array]] = {}
        features: dict[int, list[Array]] = {}
        for name in sorted(arrays):  # by their place in the segment or window
            part = features if name.startswith(FEATURES) else segments
            part.setdefault(int(name.partition("_")[2]), []).append(arrays[name])
    except Exception:  # missing or damaged; a damaged archive can raise any error
        return Snapshot()
    num_tasks, first_frame = map(int, position)
    return Snapshot(num_tasks, first_frame, segments, features)


def is_of_clip(
    snapshot: Snapshot, settings: ClipSettings, num_frames: int, latent_shape: tuple[int, ...]
) -> bool:
    """Whether this is the state of a clip of that length after so many tasks, whatever its latents hold.

    `latent_shape` is (4, h, w), the shape of one frame's latents.
    """
    layout, last_step = Layout(settings.windows(KnownLength(num_frames))), len(settings.steps) - 1
    begun: dict[int, Segment] = {}  # by first frame
    taken: Counter[int] = Counter()  # finished steps by first frame
    windows: dict[int, int] = {}  # finished steps by window in progress
    finished: dict[int, int] = {}  # stops by first frame, of those not decoded yet
    num_tasks = next_frame = 0
    for window, step in islice(settings.order(layout, last_step + 1), max(snapshot.num_tasks, 0)):
        num_tasks += 1
        places = layout.places(window)
        begun |= {segment.frames.start: segment for segment, _ in places}
        taken.update(segment.frames.start for segment, _ in places if segment.windows[-1] == window)
        windows[window] = step + 1
        if step == last_step:
            del windows[window]
            for segment, _ in places:
                if segment.windows[-1] == window:
                    del begun[segment.frames.start]
                    finished[segment.frames.start] = segment.frames.stop
            layout.forget(window)
        while next_frame in finished:
            next_frame = finished.pop(next_frame)
    expected = {
        first: [(len(segment.frames), *latent_shape)]
        * ((2 if len(segment.windows) > 1 else 1) + num_estimates(settings.steps, taken[first]))
        for first, segment in begun.items()
    }
    found = {first: [array.shape for array in segment] for first, segment in snapshot.segments.items()}
    expected_features = {
        window: [(spec.dtype, spec.shape) for spec in kept_features(settings.cached, steps)]
        for window, steps in windows.items()
    }
    found_features = {
        window: [(array.dtype.name, array.shape) for array in arrays]
        for window, arrays in snapshot.features.items()
    }
    arrays = [*chain(*snapshot.segments.values())]
    return (
        (num_tasks, next_frame, expected) == (snapshot.num_tasks, snapshot.first_frame, found)
        and {window: kept for window, kept in expected_features.items() if kept} == found_features
        and not finished
        and all(array.dtype == np.float32 for array in arrays)
        and all(np.isfinite(array).all() for array in (*arrays, *chain(*snapshot.features.values())))
    )


def is_intact_png(path: Path, shape: tuple[int, ...] | None, bits: int) -> bool:
    """Whether a PNG of this shape (height, width, 3) exists and the CRC of every chunk is right.

    Does not decode the pixels. A shape of None accepts any.
    """
    from PIL import Image

    try:
        with open_regular(path) as file:
            start = file.read(26)
            width, height = (int.from_bytes(start[i : i + 4]) for i in (16, 20))
            if not start.startswith(PNG_START) or (shape and (height, width, 3) != shape):
                return False
            if (start[24], start[25]) != (bits, RGB):
                return False
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as picture:
                picture.verify()
    except Exception:  # missing or damaged; a damaged file can raise any error
        return False
    return True


def read_png(path: Path) -> Frame:
    """Read a frame, uint8 (H, W, 3)."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture)  # of 16 bits Pillow returns the upper 8; the lower 8 equal them
