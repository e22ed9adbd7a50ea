"""Job lists: one shot per line of a JSONL file. The whole list is checked before any shot is started.

    {"name": "s010", "bundle": "bundle", "reference": "hero.png", "pose": "s010.mp4", "steps": 20}

`name`, `bundle`, `reference` and one of SOURCES or `guidance` are required; `guidance` is an object with the
path of each track, for models that are driven by several. The other keys are those of OPTIONAL and the
fields of ClipOptions, and null stands for their default. Relative paths are relative to the folder of the job
list.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...engines.bundle import Bundle, open_bundle, read_bundle
from ...engines.files import read_bytes
from ...errors import AnimateError, ConfigError, InputError, InputMissing, OutputError
from ...text import one_line, quoted
from ..clip.options import ClipOptions, options_of
from ..clip.tracks import check_tracks
from ..media.frame_rate import frame_rate
from ..media.timecode import Time
from ..poses.driving import Driving
from .conflicts import ReadFiles
from .output import Output
from .shot import Shot

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
SOURCES = {
    "pose": "a video or directory of pictures",
    "driving": "a video of a person",
    "keypoints": "a keypoint file or a folder of them",
}
GUIDANCE = "guidance"
PATHS = {
    "bundle": "a directory",
    "reference": "a picture",
    **SOURCES,
    "initial_noise": "a .npy file",
    "reference_keypoints": "a keypoint file",
    "models": "a pose bundle or a folder of models",
}
FILES = ("reference", "initial_noise", "reference_keypoints")  # of these paths; others may be directories
REQUIRED: dict[str, tuple[type, ...]] = dict.fromkeys(("name", "bundle", "reference"), (str,))
OPTIONAL: dict[str, tuple[type, ...]] = {
    "format": (str,),  # "mp4" (default) or "png"
    "frames": (int, str),
    "fps": (int, float, str),
    "pose_fps": (int, float, str),
    "first_number": (int,),
    "bits": (int,),  # per channel of PNGs: 8 (default) or 16
    "overlay": (bool,),
    GUIDANCE: (dict,),
    **dict.fromkeys(PATHS.keys() - REQUIRED.keys(), (str,)),
}
# With "driving" or "keypoints": the fields of Driving, and others of Shot.
DRIVING: dict[str, tuple[type, ...]] = {"align": (str,), "person": (int, list), "smooth": (str,)}
OF_DRIVEN: dict[str, tuple[type, ...]] = {
    "start": (int, float, str),
    "duration": (int, float, str),
    "audio": (bool,),
}
OPTIONAL |= DRIVING | OF_DRIVEN
DRIVING_PATHS = ("reference_keypoints", "models")
FARM_FILES = ("index.html", "report.json")  # in the output folder
OPTIONS = {option.name for option in fields(ClipOptions)}
MAX_BYTES, MAX_LINES, MAX_LINE_BYTES = 64_000_000, 100_000, 100_000
MAX_PATH = 4000  # characters
MAX_ERRORS = 1000  # lines that are reported
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks, which UTF-32 has too


def read_jobs(path: Path, output: Path, only: str | None = None) -> tuple[list[Shot], list[str]]:
    """Return the shots of a job list, or just the one named `only`, and an error message per invalid line.

    Opens every bundle and checks that all files exist, and that no shot writes what a shot reads. A shot's
    result is OUTPUT/NAME.mp4 or OUTPUT/NAME/, its contact sheet OUTPUT/NAME.sheet.png, and its overlay, if
    the line asks for one, OUTPUT/NAME.overlay.mp4. Raises InputError if the file is no job list at all.
    """
    lines = read_lines(path)
    # Absolute, because workers may run in another directory.
    reader = JobReader(path.absolute().parent, output.absolute(), read_bundle if only else open_bundle)
    errors: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and len(errors) < MAX_ERRORS:
            try:
                job = parse(line)
                if only in (None, job["name"]):
                    reader.read(number, job)
            except AnimateError as error:
                errors.append((number, str(error)))
    errors += reader.conflicts(path)
    messages = [one_line(f"{path}:{number}: {error}") for number, error in sorted(errors)]
    if not (reader.shots or messages):
        wanted = "a line of JSON for each shot" if only is None else f"a shot named {quoted(only)}"
        messages.append(f"{path}: expected {wanted}, found none")
    return list(reader.shots.values()), messages


def read_lines(path: Path) -> list[bytes]:
    """Read the lines of a job list. Raises InputError."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: expected a job list, found nothing there; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read this job list: {error.strerror}") from error
    if content.startswith(UTF_16):
        raise InputError(
            f"{path}: expected a job list in UTF-8, found UTF-16, which PowerShell writes; save it as UTF-8"
        )
    lines = content.splitlines()
    if lines and b"\0" in lines[0]:
        raise InputError(f"{path}: expected a job list in UTF-8, found zero bytes, which no text has")
    if len(lines) > MAX_LINES:
        raise InputError(
            f"{path}: expected at most {MAX_LINES} lines, found {len(lines)}; split the job list"
        )
    return lines


class JobReader:
    """Reads one line after another. Remembers which file names are in use, and the bundles it has opened."""

    def __init__(self, folder: Path, output: Path, open_bundle: Callable[[Path], Bundle]):
        self.folder, self.output, self.open_bundle = folder, output, open_bundle
        self.shots: dict[int, Shot] = {}  # by line
        # File names in the output folder, in lower case as some file systems ignore it, and who uses each.
        self.users = dict.fromkeys(FARM_FILES, "the farm")
        self.bundles: dict[Path, Bundle | AnimateError] = {}

    def read(self, number: int, job: dict[str, Any]) -> None:
        self.reserve(number, job["name"], job.get("format", "mp4"), overlay=job.get("overlay", False))
        paths = {key: self.folder / job.pop(key) for key in PATHS if key in job}
        for key, file in paths.items():
            check_there(key, file, PATHS[key])
            if key in FILES and not os.path.isfile(file):
                raise InputError(
                    f"{key}: expected a regular file, found another kind, {quoted(str(file), MAX_PATH // 4)}"
                )
        bundle = self.bundle(paths["bundle"])
        tracks = {name: self.folder / path for name, path in job.pop(GUIDANCE, {}).items()}
        check_tracks(bundle.manifest.model, tracks)
        for name, path in tracks.items():
            check_there(f"{GUIDANCE}: {name}", path, SOURCES["pose"])
        options = self.options(bundle, job)
        self.shots[number] = self.shot(job | paths | ({GUIDANCE: tracks} if tracks else {}), options)

    def conflicts(self, job_list: Path) -> list[tuple[int, str]]:
        """Return an error for each line whose shot would write something that is read."""
        files, errors = ReadFiles(), []
        files.add(job_list, "job list")
        for shot in self.shots.values():
            shot.add_inputs(files)
        for number, shot in self.shots.items():
            try:
                files.check_output(shot.output, shot.previews.values())
            except OutputError as error:
                errors.append((number, str(error)))
        return errors

    def reserve(self, number: int, name: str, file_format: str, *, overlay: bool) -> None:
        """Reserve the names of a shot's result, sidecar, contact sheet and overlay."""
        if file_format not in ("mp4", "png"):
            raise ConfigError(f"format: expected mp4 or png, found {quoted(file_format)}")
        result = f"{name}.mp4" if file_format == "mp4" else name
        files = [result, f"{result}.json", f"{name}.sheet.png"]
        files += [f"{name}.overlay.mp4"] if overlay else []
        for file in files:
            if user := self.users.get(file.lower()):
                raise ConfigError(
                    f"name: expected a unique name, whatever its case, found {name}: {file} is used by {user}"
                )
        self.users |= dict.fromkeys(map(str.lower, files), f"line {number}")

    def shot(self, job: dict[str, Any], options: ClipOptions) -> Shot:
        for key in {"fps", "pose_fps"} & job.keys():
            job[key] = frame_rate(str(job[key]))
        for key in {"start", "duration"} & job.keys():
            job[key] = Time.parse(str(job[key]))
        job = with_driving(job)
        if GUIDANCE in job:
            job["pose"] = job.pop(GUIDANCE)
        if "frames" in job:
            job["frames"] = str(job["frames"])
        name, file_format = job.pop("name"), job.pop("format", "mp4")
        target = self.output / (f"{name}.mp4" if file_format == "mp4" else f"{name}/#####.png")
        output = Output.at(str(target), job.pop("first_number", 0), job.pop("bits", 8))
        sheet = self.output / f"{name}.sheet.png"
        overlay = self.output / f"{name}.overlay.mp4" if job.pop("overlay", False) else None
        return Shot(name=name, output=output, contact_sheet=sheet, overlay=overlay, options=options, **job)

    def bundle(self, path: Path) -> Bundle:
        """Open a bundle once. If that fails, every line that names the bundle gets the error."""
        if path not in self.bundles:
            try:
                self.bundles[path] = self.open_bundle(path)
            except AnimateError as error:
                self.bundles[path] = error
        found = self.bundles[path]
        if isinstance(found, AnimateError):
            raise found
        return found

    def options(self, bundle: Bundle, job: dict[str, Any]) -> ClipOptions:
        """Take the clip options out of `job`. Raises ConfigError if the bundle cannot use them."""
        options = options_of(job)
        options.resolve(bundle.manifest)
        for name in OPTIONS & job.keys():
            del job[name]
        return options


def check_there(key: str, path: Path, what: str) -> None:
    if not os.path.exists(path):  # unlike the method, False for a name that no file can have
        raise InputMissing(f"{key}: expected {what}, found no {quoted(str(path), MAX_PATH // 4)}")


def with_driving(job: dict[str, Any]) -> dict[str, Any]:
    """Gather what belongs to a driving video. Raises ConfigError if the poses are drawn already."""
    if drawn := [key for key in ("pose", GUIDANCE) if key in job]:
        if given := [key for key in (*DRIVING, *OF_DRIVEN, *DRIVING_PATHS) if key in job]:
            raise ConfigError(
                f"{', '.join(given)}: expected driving or keypoints, found {drawn[0]}; leave them out"
            )
        return job
    own = {key: job[key] for key in (*DRIVING, *DRIVING_PATHS) if key in job}
    if isinstance(own.get("person"), list):
        own["person"] = tuple(own["person"])
    source = next(key for key in SOURCES if key in job)
    rest = {key: value for key, value in job.items() if key not in (*own, source)}
    return rest | {"pose": job[source], "driving": Driving(**own)}


def parse(line: bytes) -> dict[str, Any]:
    """Parse a line. Raises ConfigError for missing or unknown keys, wrong types and values out of bounds."""
    if len(line) > MAX_LINE_BYTES:
        raise ConfigError(f"expected a line of at most {MAX_LINE_BYTES} bytes, found {len(line)}")
    try:
        job = json.loads(line, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.colno}"
        raise ConfigError(f"expected a line of JSON, cannot read it: {reason}") from error
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8"
        raise ConfigError(f"expected a line of JSON, cannot read it: {reason}") from error
    except (ValueError, RecursionError) as error:
        reason = (
            "its objects are nested too deeply"
            if isinstance(error, RecursionError)
            else "a number is too long"
        )
        raise ConfigError(f"expected a line of JSON, cannot read it: {reason}") from error
    if not isinstance(job, dict):
        raise ConfigError(f"expected an object with name, bundle, reference and pose, found {quoted(job)}")
    if missing := [key for key in REQUIRED if key not in job]:
        raise ConfigError(f"missing {', '.join(missing)}")
    if len(sources := [key for key in (*SOURCES, GUIDANCE) if job.get(key) is not None]) != 1:
        found = " and ".join(sources) or "none"
        raise ConfigError(f"expected one of {', '.join((*SOURCES, GUIDANCE))}, found {found}")
    kinds = REQUIRED | OPTIONAL
    if unknown := [key for key in job if key not in kinds and key not in OPTIONS]:
        known = ", ".join((*OPTIONAL, *sorted(OPTIONS)))
        raise ConfigError(f"unknown {quoted(', '.join(unknown))}; expected some of {known}")
    job = {key: value for key, value in job.items() if value is not None or key in REQUIRED}
    for key, value in job.items():
        if key not in OPTIONS and type(value) not in kinds[key]:
            expected = " or ".join(kind.__name__ for kind in kinds[key])
            raise ConfigError(f"{key}: expected {expected}, found {quoted(value)}")
    if not NAME.fullmatch(job["name"]):
        raise ConfigError(
            f"name: expected up to 100 letters, digits, '_', '.' and '-', as it becomes a file name, "
            f"found {quoted(job['name'])}"
        )
    tracks = {f"{GUIDANCE}: {name}": path for name, path in job.get(GUIDANCE, {}).items()}
    for key, path in ({key: job[key] for key in PATHS if key in job} | tracks).items():
        if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
            raise ConfigError(
                f"{one_line(key)}: expected a path of 1 to {MAX_PATH} characters, found "
                f"{quoted(path) or 'an empty text'}"
            )
    return job


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The keys and values of a JSON object as a dict. Raises ConfigError if a key occurs twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"expected each key once, found {quoted(key)} twice: remove one")
        found[key] = value
    return found
