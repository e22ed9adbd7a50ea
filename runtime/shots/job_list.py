"""Job lists: one shot per line of a JSONL file, checked as a whole before anything is started.

    {"name": "s010", "bundle": "bundle", "reference": "hero.png", "pose": "s010.mp4", "steps": 20}

`name`, `bundle`, `reference` and `pose` are required; the other keys are those of OPTIONAL and the fields of
ClipOptions. Relative paths start at the folder of the job list.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...engines.bundle import Bundle, open_bundle
from ...errors import AnimateError, ConfigError, InputError, InputMissing
from ..clip.options import ClipOptions, options_of
from .output import Output
from .shot import Shot

RATE = re.compile(r"[0-9]{1,9}(?:[./][0-9]{1,18})?")  # no exponent, which could take for ever
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
PATHS = {"bundle": "a directory", "reference": "a picture", "pose": "a video or directory of pictures"}
REQUIRED: dict[str, tuple[type, ...]] = dict.fromkeys(("name", *PATHS), (str,))
OPTIONAL: dict[str, tuple[type, ...]] = {
    "format": (str,),  # "mp4" (default) or "png"
    "frames": (int, str),
    "fps": (int, float, str),
    "initial_noise": (str,),
    "first_number": (int,),
    "bits": (int,),  # per channel of PNGs: 8 (default) or 16
}
OPTIONS = {option.name for option in fields(ClipOptions)}
MIN_RATE, MAX_RATE = Fraction(1, 1000), Fraction(1000)


def read_jobs(path: Path, output: Path, only: str | None = None) -> tuple[list[Shot], list[str]]:
    """The shots of a job list, or `only` that of a name; and what is wrong with it, a sentence per bad line.

    Opens every bundle, and looks whether all files are there. A shot's result is OUTPUT/NAME.mp4 or
    OUTPUT/NAME/, its contact sheet OUTPUT/NAME.sheet.png.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: expected a job list, found nothing there; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read this job list: {error.strerror}") from error
    # Absolute, as workers may have been started anywhere.
    reader = JobReader(path.absolute().parent, output.absolute())
    errors = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                job = parse(line)
                if only in (None, job["name"]):
                    reader.read(number, job)
            except AnimateError as error:
                errors.append(f"{path}:{number}: {error}")
    if not (reader.shots or errors):
        wanted = "a line of JSON for each shot" if only is None else f"a shot named {only}"
        errors.append(f"{path}: expected {wanted}, found none")
    return reader.shots, errors


class JobReader:
    """Reads line after line, and remembers what is taken, and bundles."""

    def __init__(self, folder: Path, output: Path):
        self.folder, self.output = folder, output
        self.shots: list[Shot] = []
        self.taken = {"index.html": "the farm", "report.json": "the farm"}  # names in the output, and by whom
        self.bundles: dict[Path, Bundle | AnimateError] = {}

    def read(self, number: int, job: dict[str, Any]) -> None:
        self.take(number, job["name"], job.get("format", "mp4"))
        paths = {key: self.folder / job.pop(key) for key in (*PATHS, "initial_noise") if key in job}
        for key, file in paths.items():
            if not file.exists():
                raise InputMissing(f"{key}: expected {PATHS.get(key, 'a .npy file')}, found no {file}")
        options = self.options(self.bundle(paths["bundle"]), job)
        self.shots.append(self.shot(job | paths, options))

    def take(self, number: int, name: str, form: str) -> None:
        """The names of a shot's result, sidecar and contact sheet."""
        if form not in ("mp4", "png"):
            raise ConfigError(f"format: expected mp4 or png, found {form}")
        result = f"{name}.mp4" if form == "mp4" else name
        for file in (result, f"{result}.json", f"{name}.sheet.png"):
            if file in self.taken:
                raise ConfigError(
                    f"name: expected another for each shot, found {name}: {file} is of {self.taken[file]}"
                )
        self.taken |= dict.fromkeys((result, f"{result}.json", f"{name}.sheet.png"), f"line {number}")

    def shot(self, job: dict[str, Any], options: ClipOptions) -> Shot:
        if "fps" in job:
            job["fps"] = frame_rate(str(job["fps"]))
        if "frames" in job:
            job["frames"] = str(job["frames"])
        name, form = job.pop("name"), job.pop("format", "mp4")
        target = self.output / (f"{name}.mp4" if form == "mp4" else f"{name}/#####.png")
        output = Output.at(str(target), job.pop("first_number", 0), job.pop("bits", 8))
        sheet = self.output / f"{name}.sheet.png"
        return Shot(name=name, output=output, contact_sheet=sheet, options=options, **job)

    def bundle(self, path: Path) -> Bundle:
        """Opened once; what is wrong with it is told for each line."""
        if path not in self.bundles:
            try:
                self.bundles[path] = open_bundle(path)
            except AnimateError as error:
                self.bundles[path] = error
        found = self.bundles[path]
        if isinstance(found, AnimateError):
            raise found
        return found

    def options(self, bundle: Bundle, job: dict[str, Any]) -> ClipOptions:
        """The clip options of a job, which its bundle can use; takes them out of `job`."""
        options = options_of(job)
        options.resolve(bundle.manifest)
        for name in OPTIONS & job.keys():
            del job[name]
        return options


def parse(line: bytes) -> dict[str, Any]:
    """The fields of a line, of the right types."""
    try:
        job = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"expected a line of JSON, cannot read it: {error}") from error
    if not isinstance(job, dict):
        raise ConfigError(
            f"expected an object with name, bundle, reference and pose, found {json.dumps(job)}"
        )
    if missing := [key for key in REQUIRED if key not in job]:
        raise ConfigError(f"missing {', '.join(missing)}")
    kinds = REQUIRED | OPTIONAL
    if unknown := [key for key in job if key not in kinds and key not in OPTIONS]:
        known = ", ".join((*OPTIONAL, *sorted(OPTIONS)))
        raise ConfigError(f"unknown {', '.join(unknown)}; expected some of {known}")
    for key, value in job.items():
        if key not in OPTIONS and type(value) not in kinds[key]:
            expected = " or ".join(kind.__name__ for kind in kinds[key])
            raise ConfigError(f"{key}: expected {expected}, found {json.dumps(value)}")
    if not NAME.fullmatch(job["name"]):
        raise ConfigError(
            f"name: expected up to 100 letters, digits, '_', '.' and '-', which names a file, "
            f"found {json.dumps(job['name'])}"
        )
    return job


def frame_rate(text: str) -> Fraction:
    """Frames per second: 25, 29.97 or 30000/1001."""
    try:
        value = Fraction(text if RATE.fullmatch(text) else 0).limit_denominator(1001)
    except ZeroDivisionError:
        value = Fraction(0)
    if not MIN_RATE <= value <= MAX_RATE:
        raise ConfigError(f"expected frames per second like 25 or 30000/1001, found {text}")
    return value
