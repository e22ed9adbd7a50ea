"""`ClipRequest`: what one clip is made from. On disk it is a job list of one line, beside its inputs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, Unpack

from ...atomic import unwritable
from ...engines.files import open_regular
from ...errors import ConfigError, InputError, InputMissing
from ...text import escaped, quoted
from ..clip.options import OptionKeywords, options_of
from ..media.folder import counts, listed
from ..media.picture import Picture, read_picture
from ..shots.job_list import GUIDANCE, PATHS, SOURCES, parse, with_driving

MAX_SUFFIX = 12  # characters of a file name's end that are kept, as it tells some formats apart
# Keys of a job list that the service decides.
SERVICE_KEYS = {"bundle", "name", "format", "bits", "first_number", "models", "overlay"}
FULL = {errno.ENOSPC, errno.EDQUOT}  # what only writing a copy can meet
COPIED = (*SOURCES, "initial_noise", "reference_keypoints")


class JobKeys(OptionKeywords, total=False):
    """The keys of a job list that a request can have (docs/farm.md), for type checkers."""

    pose: str | os.PathLike[str]
    driving: str | os.PathLike[str]
    keypoints: str | os.PathLike[str]
    guidance: dict[str, str | os.PathLike[str]]
    initial_noise: str | os.PathLike[str]
    reference_keypoints: str | os.PathLike[str]
    frames: int | str
    fps: Fraction | float | str
    pose_fps: Fraction | float | str
    align: str
    person: int | tuple[float, float]
    smooth: str
    start: float | str
    duration: float | str
    audio: bool


class ClipRequest:
    """What one clip is made from: the reference, one of `pose`, `driving`, `keypoints` and `guidance`, and
    options.

    `reference` is a path, a PIL image or a uint8 (H, W, 3) array. `size` names one of the service's bundles;
    it may be left out if there is only one. All other arguments are the keys of a job list (docs/farm.md):
    `pose`, `driving` and `keypoints` are paths, `guidance` has the path of each track, and the fields of
    ClipOptions are among them. None stands for the default. Raises ConfigError for values that no bundle can
    use.
    """

    def __init__(self, *, reference: Picture, size: str | None = None, **keys: Unpack[JobKeys]):
        self.reference, self.size = reference, size
        given: dict[str, Any] = {key: value for key, value in keys.items() if value is not None}
        for key in SERVICE_KEYS & given.keys():
            raise ConfigError(f"{key}: expected the keys of a request, found one that the service decides")
        self.keys = {key: plain(value) for key, value in given.items()}
        line = self.line("request", Path("bundle"))
        options_of(line)
        with_driving(line)

    def line(self, name: str, bundle: Path) -> dict[str, Any]:
        """The job list's line, with the inputs at their original places. Raises ConfigError."""
        reference = self.reference if isinstance(self.reference, str | os.PathLike) else "picture"
        return parse(to_line({"name": name, "bundle": str(bundle), "reference": str(reference)} | self.keys))

    def write(self, folder: Path, name: str, bundle: Path) -> dict[str, Any]:
        """Copy the inputs into a folder, and return the line of a job list that names the copies.

        Raises InputError or OutputError.
        """
        line = self.line(name, bundle)
        line["reference"] = self._write_reference(folder)
        for key in COPIED:
            if key in line:
                line[key] = copy_input(Path(line[key]), folder, key, PATHS[key])
        for name, path in line.get(GUIDANCE, {}).items():
            if not name.isidentifier():  # it becomes a file name
                raise ConfigError(f"{GUIDANCE}: expected names of tracks, found {quoted(name)}")
            line[GUIDANCE][name] = copy_input(Path(path), folder, f"{GUIDANCE}_{name}", SOURCES["pose"])
        return line

    def _write_reference(self, folder: Path) -> str:
        if isinstance(self.reference, str | os.PathLike):
            return copy_input(Path(os.fsdecode(self.reference)), folder, "reference", PATHS["reference"])
        from PIL import Image

        picture = self.reference
        if not isinstance(picture, Image.Image):
            picture = read_picture(picture)  # checks the array
        target = folder / "reference.png"
        # The whole picture, with its alpha channel and colour profile.
        try:
            picture.save(target, compress_level=1, icc_profile=picture.info.get("icc_profile"))
        except OSError as error:
            if error.errno is not None:
                raise unwritable(target, error) from error
            raise InputError(
                f"reference: expected a picture that can be stored as PNG, found one of mode {picture.mode}; "
                "convert it to RGB or RGBA"
            ) from error
        return target.name


def plain(value: Any) -> Any:
    """A value as JSON has it: paths and fractions as text, tuples as lists; also inside a dict."""
    if isinstance(value, os.PathLike | Fraction):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def to_line(job: dict[str, Any]) -> bytes:
    for key, value in job.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{key}: expected a finite number, a text or a path, found {quoted(value)}"
            ) from error
    return json.dumps(job).encode()


def copy_input(source: Path, folder: Path, key: str, what: str) -> str:
    """Copy a file, or the files of a folder, and return the name of the copy.

    `what` describes it in messages. The copy is named after the key. Of the original name, only an ordinary
    suffix is kept. Raises InputError, or OutputError if the disk is full.
    """
    try:
        if source.is_dir():
            (folder / key).mkdir()
            for file in listed(source):
                if counts(file.name) and file.is_file():
                    copy_file(file, folder / key / file.name)
            return key
        name = key + ordinary_suffix(source)
        copy_file(source, folder / name)
        return name
    except FileNotFoundError as error:
        raise InputMissing(
            f"{key}: expected {what}, found nothing at {escaped(str(source))}; check the path"
        ) from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in FULL:
            raise unwritable(folder / key, error) from error
        reason = getattr(error, "strerror", None) or "no file can have this name"
        raise InputError(f"{key}: cannot read {escaped(str(source))}: {reason}") from error


def ordinary_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if len(suffix) <= MAX_SUFFIX and suffix.isascii() and suffix[1:].isalnum() else ""


def copy_file(source: Path, target: Path) -> None:
    with open_regular(source) as original, target.open("xb") as copy:
        shutil.copyfileobj(original, copy, 1 << 20)


def without_names(line: dict[str, Any]) -> dict[str, Any]:
    """What two lines have in common if they ask for the same clip of the same bundle."""
    return {key: value for key, value in line.items() if key not in ("name", "bundle")}
