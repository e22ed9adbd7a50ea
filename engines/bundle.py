"""A bundle: one directory with everything a clip needs, and a manifest that vouches for every byte of it.

    manifest.json       what was built from what, for what, and the SHA-256 of every file
    graphs/<graph>.onnx opset 23; the weights of all graphs in graphs/weights.bin
    engines/<graph>.*   compiled plans, where the backend compiles ahead of time

A bundle appears under its name complete or not at all. Opening it verifies every file first; that a file is
there proves nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic
from ..errors import BundleCorrupt, BundleError, BundleMismatch, ConfigError, InputMissing, OutputError
from .contract import Contract, Memory, ShapeBucket, contracts
from .files import File, canonical, describe, digest_of
from .json_document import from_json
from .model import ModelConfig
from .precision import PRECISIONS, Backend, Precision

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle is; `files` and `digest` are filled in when it is sealed."""

    schema: int = SCHEMA
    model: ModelConfig
    bucket: ShapeBucket
    backend: Backend
    backend_version: str
    compute_capabilities: tuple[str, ...]
    # Of each plan, as its builder stated it; empty where one did not, as OpenVINO, which keeps it to itself.
    memory: dict[str, Memory] = dataclasses.field(default_factory=dict)
    precision: Precision
    weights: dict[str, str]  # SHA-256 of each weight file of the checkpoint
    graphs: dict[str, Contract]
    files: dict[str, File] = dataclasses.field(default_factory=dict)

    @property
    def rebuild_command(self) -> str:
        bucket = self.bucket
        return (
            f"animate-rt build CHECKPOINT BUNDLE --width {bucket.width} --height {bucket.height} "
            f"--window {bucket.window} --backend {self.backend} --precision {self.precision}"
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest
    digest: str  # of the manifest, and so of everything in the bundle

    def graph(self, name: str) -> Path:
        return self.path / "graphs" / f"{name}.onnx"

    def verify(self) -> None:
        """Raise BundleCorrupt unless every file is still what was built."""
        verify_files(self.path, self.manifest.files)


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Verify a bundle, every byte of it, and return it.

    Raises InputMissing if there is none, BundleCorrupt if a file is missing or not what was built,
    BundleMismatch if another version of animate-rt built it.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputMissing(f"{path}: expected a bundle directory, found none; make one with animate-rt build")
    document = read_manifest(path / MANIFEST)
    digest = document.pop("digest")
    if document.get("schema") != SCHEMA:
        raise BundleMismatch(
            f"{path}: expected a bundle of schema {SCHEMA}, found {document.get('schema')}; "
            "build it again with this version: animate-rt build --help"
        )
    try:
        manifest: Manifest = from_json(Manifest, document, "manifest")
        expected = contracts(manifest.model, manifest.bucket, PRECISIONS[manifest.precision].graph_dtype)
    except ConfigError as error:
        raise BundleMismatch(f"{path}: this version cannot use it: {error}; build it again") from error
    verify_files(path, manifest.files)
    if manifest.graphs != expected:
        names = sorted(name for name in expected if manifest.graphs.get(name) != expected[name])
        raise BundleMismatch(
            f"{path}: expected the inputs and outputs of this version, found others for {', '.join(names)}; "
            f"build it again: {manifest.rebuild_command}"
        )
    # Equal, but in the order of a clip's life, which a sorted document has lost.
    return Bundle(path, dataclasses.replace(manifest, graphs=expected), digest)


@contextmanager
def new_bundle(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place at the end, if nothing went wrong before.

    The body puts files into it and ends with `seal`. An existing bundle is replaced; anything else that is in
    the way is an OutputError before the body begins.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not replaceable(path):
        raise OutputError(f"{path}: expected a new name or an existing bundle, found something else there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path, replace=replace_folder) as folder:
            folder.mkdir()
            yield folder
    except OSError as error:
        raise OutputError(f"{path}: cannot write the bundle: {error.strerror or error}") from error


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest over all files of the folder; the last thing before the bundle takes its name."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: describe(folder / name) for name in names}
    document = dataclasses.asdict(dataclasses.replace(manifest, files=files))
    document["digest"] = digest_of(document)
    (folder / MANIFEST).write_bytes(canonical(document))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest's document, if its bytes are exactly those that `seal` wrote."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path.parent}: expected a bundle, cannot read {path.name}: {error.strerror}"
        ) from error
    try:
        document = json.loads(content)
        rest = {key: value for key, value in document.items() if key != "digest"}
        intact = content == canonical(document) and document["digest"] == digest_of(rest)
    except (ValueError, AttributeError, KeyError):
        intact = False
    if not intact:
        raise BundleCorrupt(
            f"{path}: expected the bytes that were built, found others; build the bundle again"
        )
    assert isinstance(document, dict)
    return document


def verify_files(path: Path, files: dict[str, File]) -> None:
    def damage(name: str) -> str | None:
        try:
            found = describe(path / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found != files[name]:
            return f"{name}: expected SHA-256 {files[name].sha256[:12]}, found {found.sha256[:12]}"
        return None

    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter lock
        damaged = [line for line in pool.map(damage, files) if line]
    if damaged:
        raise BundleCorrupt(f"{path}: {'; '.join(damaged)}; build the bundle again, or copy it again")


def replaceable(path: Path) -> bool:
    """A bundle, even a damaged one, or an empty directory; nothing that holds anything else."""
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {MANIFEST, "graphs", "engines"}


def replace_folder(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`. A directory cannot be replaced in one step: for an instant there is
    none, never a mixture."""
    if path.exists():
        old = new.with_name(new.name + ".old")
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(path)
