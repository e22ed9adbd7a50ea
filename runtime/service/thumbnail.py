"""Thumbnails: the first frame of a result as a small picture, made when it is first asked for."""

from __future__ import annotations

from pathlib import Path

from ...atomic import atomic
from .job import Job

SIDE = 320  # pixels of the longer side
FILE = "thumbnail.webp"


def thumbnail(job: Job) -> Path:
    """The thumbnail of a completed job, a WebP. Raises OSError or OutputError."""
    import av
    from PIL import Image

    path = job.folder / FILE
    if path.exists():
        return path
    with av.open(job.path) as container:
        picture = Image.fromarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    picture.thumbnail((SIDE, SIDE))
    with atomic(path) as temporary:
        picture.save(temporary, "WEBP", quality=80)
    return path
