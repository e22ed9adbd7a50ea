"""Warming up: a short clip of black pictures, so that a service's first clip is as fast as the second."""

from __future__ import annotations

from contextlib import closing
from time import monotonic

import numpy as np

from ..animator import Animator
from ..clip.options import ClipOptions
from ..clip.progress import Progress
from ..clip.tracks import track_names
from .animators import Check
from .speed import Speed

STEPS = 2  # the first run of an engine is slower


def warm_up(animator: Animator, speed: Speed, check: Check) -> None:
    """Run every engine that a clip with default options uses, and measure a run of the UNet.

    `check` is called at every report of the clip; what it raises ends the warm-up.
    """
    manifest = animator.bundle.manifest
    bucket, schedule = manifest.bucket, manifest.model.sampling.schedule
    black = np.zeros((bucket.height, bucket.width, 3), np.uint8)
    black_poses = [black] * bucket.window
    tracks = dict.fromkeys(track_names(manifest.model), black_poses)
    steps = STEPS if isinstance(schedule, int) else schedule[:STEPS]
    ended: list[float] = []

    def on_progress(progress: Progress) -> None:
        check()
        if progress.stage == "denoise" and progress.done:
            ended.append(monotonic())

    options = ClipOptions(steps=steps)
    with closing(animator.animate(black, tracks or black_poses, options, progress=on_progress)) as frames:
        for _ in frames:
            pass
    if len(ended) > 1:
        speed.take(len(ended) - 1, ended[-1] - ended[0])
