"""What a result says of itself: its marks, what its signature says that it was made from, lossy options."""

from __future__ import annotations

import logging
from pathlib import Path

from ...engines.bundle import Bundle
from ..clip.options import ClipOptions
from ..marks.credentials import Origin
from ..marks.marks import MarkOptions, Marks
from .pose_files import ONLY, PoseFiles, by_track

LOG = logging.getLogger("animate_rt")


def lossy(bundle: Bundle, clip: ClipOptions) -> list[str]:
    """Options that trade accuracy for speed."""
    precision = bundle.manifest.precision
    used = {f"precision {precision}": precision == "int8"}
    used[f"cache_interval {clip.cache_interval}"] = clip.cache_interval > 1
    return [name for name, is_used in used.items() if is_used]


def marks_of(
    options: MarkOptions, bundle: Bundle, clip: ClipOptions, reference: Path, pose: PoseFiles, request: str
) -> Marks:
    """The marks of a result. `request` is a digest. Raises ConfigError."""
    if options.metadata and not options.certificate:
        LOG.info("request %s: its metadata is not signed, as there is no C2PA certificate", request[:12])
    settings = clip.resolve(bundle.manifest)
    facts = {"bundle": bundle.digest, "request": request, "seed": settings.seed, "steps": len(settings.steps)}
    poses = {"poses" if name == ONLY else name: path for name, path in by_track(pose).items()}
    inputs = {"reference": reference, **poses}
    return options.marks(request, Origin(inputs=inputs, facts=facts))
