"""Tracks: the pose sequences of a model whose pose frames have several pictures, joined into one sequence.

Champ (SPEC-family.md A.3) is driven by a depth map, a map of normals, a semantic map and a skeleton in each
frame. Each kind is a track.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from ...engines.contract import ShapeBucket
from ...engines.model import ModelConfig
from ...errors import ConfigError, InputError
from ...text import quoted
from ..media.picture import fit
from ..media.pose_sequence import PoseSequence

if TYPE_CHECKING:
    from PIL import Image

MASKED, MASK = "semantic_map", "mask"  # the track whose pixels a mask keeps, and the mask's own


def track_names(model: ModelConfig) -> tuple[str, ...]:
    """The tracks that a model needs, empty for a model that is driven by one pose sequence."""
    return (*model.pose_tracks, *([MASK] if MASKED in model.pose_tracks else []))


def check_tracks(model: ModelConfig, given: Collection[str]) -> None:
    """Raise ConfigError unless exactly the tracks that the model needs are given; none is one sequence."""
    needed = track_names(model)
    if set(given) != set(needed):
        names = (f"the tracks {', '.join(map(quoted, some))}" if some else "" for some in (needed, given))
        expected, found = (each or "one pose sequence" for each in names)
        option = " ".join(f"--guidance {name}=PATH" for name in needed) or "--pose PATH"
        raise ConfigError(f"pose: expected {expected}, found {found}; the command needs {option}")


def join(tracks: Mapping[str, PoseSequence], model: ModelConfig, bucket: ShapeBucket) -> PoseSequence:
    """Join a model's tracks into a sequence of pictures side by side, in the order of `model.pose_tracks`.

    Each picture is resized to the bucket's size by the model's resampling, a semantic map after its pixels
    outside the mask became black. Raises ConfigError for other tracks than the model's, and InputError if
    their rates differ; iterating raises InputError if their lengths do.
    """
    check_tracks(model, tracks)
    rates = {name: track.frame_rate for name, track in tracks.items() if track.frame_rate is not None}
    if len(set(rates.values())) > 1:
        found = ", ".join(f"{name} with {float(rate):g}" for name, rate in rates.items())
        raise InputError(f"guidance: expected tracks of one frame rate, found {found} frames per second")

    def read() -> Iterator[Image.Image]:
        from PIL import Image

        last: tuple[Image.Image | None, ...] = ()
        for number, pictures in enumerate(zip_longest(*tracks.values())):
            if ended := [name for name, picture in zip(tracks, pictures, strict=True) if picture is None]:
                longer = next(name for name in tracks if name not in ended)
                raise InputError(
                    f"guidance: expected tracks of one length, found {number} frames in {ended[0]} and more "
                    f"in {longer}"
                )
            if len(last) != len(pictures) or any(map(is_other, pictures, last)):
                last = pictures
                frame = frames_of(dict(zip(tracks, pictures, strict=True)))
                joined = Image.fromarray(np.concatenate(frame, axis=1))
            yield joined

    def frames_of(pictures: dict[str, Image.Image]) -> list[np.ndarray]:
        if MASK in pictures:
            pictures[MASKED] = masked(pictures[MASKED], pictures[MASK])
        return [
            fit(pictures[name], bucket.width, bucket.height, model.pose_resampling)
            for name in model.pose_tracks
        ]

    lengths = [track.num_frames for track in tracks.values() if track.num_frames is not None]
    rate = next(iter(rates.values()), None)
    return PoseSequence(read, rate, min(lengths, default=None), tracks=tuple(tracks))


def is_other(picture: object, last: object) -> bool:
    return picture is not last


def masked(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The values of a picture where the mask's are above zero, and zero elsewhere. Raises InputError."""
    from PIL import Image

    if picture.size != mask.size:
        raise InputError(
            f"guidance: expected a mask of {picture.width}x{picture.height}, the size of the {MASKED}, found "
            f"{mask.width}x{mask.height}"
        )
    return Image.fromarray(np.where(np.asarray(mask) > 0, np.asarray(picture), np.uint8(0)))
