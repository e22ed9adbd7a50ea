"""A bundle: one directory with everything a clip needs, and a manifest with the SHA-256 of every file.

    manifest.json       what the bundle was built from and for, and the SHA-256 of every file
    graphs/<graph>.onnx opset 23; the weights of all graphs are in graphs/weights.bin
    engines/<graph>.*   what the backend loads: a compiled plan of TensorRT, or a graph in OpenVINO's format
                        (.xml), whose weights are in graphs/weights.bin too

A bundle is published atomically: it appears under its name complete, or not at all. Opening it verifies the
content of every file. Anyone can write a manifest with a correct digest, so its values are checked before
they cost memory or time.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..atomic import atomic_folder, put_back
from ..errors import BundleCorrupt, BundleError, BundleMismatch, ConfigError, InputMissing, OutputError
from ..text import escaped, message_of, one_line, quoted
from .files import File, Hashed, canonical, digest_of, hashed, read_bytes, stamp
from .graph_file import MAX_GRAPH, check_weight_files
from .json_document import from_json
from .manifest import SCHEMA, WEIGHTS, Contents, Manifest, named

C = TypeVar("C", bound=Contents)

MANIFEST = "manifest.json"
MAX_MANIFEST = 2_000_000  # bytes; that of SD 1.5 has 34,000
MAX_DEPTH = 12  # of its JSON; a manifest has 7
MAX_TOTAL = 1 << 35  # bytes of all files, as hashing them takes time
KINDS = {
    ("graphs", ".onnx"),
    ("engines", ".plan"),
    ("engines", ".xml"),
}  # folder and suffix of a bundle's files
# Left by file managers, in lower case; not all of runtime/media/folder.py, as a bundle is deleted with them.
SYSTEM_NAMES = {".ds_store", ".directory", "thumbs.db", "desktop.ini", "@eadir"}


@dataclass(frozen=True, slots=True)
class SealedBundle:
    """A verified bundle of any kind on disk."""

    path: Path
    manifest: Contents
    digest: str  # of the manifest, which has the digests of all files
    # By name, as they were when the bundle was opened.
    hashed: dict[str, Hashed] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def graph(self, name: str) -> Path:
        return self.path / "graphs" / f"{name}.onnx"

    def engine(self, name: str) -> Path:
        return self.path / self.manifest.engine(name)

    def verify(self) -> None:
        """Verify the files again; those that cannot have changed since they were hashed are not read.

        Raises BundleCorrupt if one has changed since the bundle was opened.
        """
        if damaged := damages(self.path, self.manifest.files, self.hashed):
            raise BundleCorrupt(
                f"{escaped(str(self.path))}: was replaced or changed after it was opened: "
                f"{'; '.join(damaged)}; open it again"
            )


@dataclass(frozen=True, slots=True)
class Bundle(SealedBundle):
    """A verified bundle for clips."""

    manifest: Manifest


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle after verifying every byte of it.

    Raises InputMissing if there is no such directory, BundleError if its manifest cannot be read,
    BundleCorrupt if a file is missing or has changed since it was built, BundleMismatch if another version of
    animate-rt built it.
    """
    bundle = read_bundle(path)
    verify_files(bundle)
    return bundle


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle's manifest; its files are not verified before `verify`. Raises as `open_bundle`."""
    return Bundle(Path(path), *read_contents(path, Manifest, "animate-rt build"))


def verify_files(bundle: SealedBundle) -> None:
    """Verify every file of a bundle whose manifest has been read. Raises BundleCorrupt."""
    if damaged := damages(bundle.path, bundle.manifest.files, bundle.hashed):
        raise BundleCorrupt(
            f"{escaped(str(bundle.path))}: {'; '.join(damaged)}; build the bundle again, or copy it again"
        )
    for graph in bundle.manifest.graphs:
        check_weight_files(bundle.graph(graph))


def read_contents(path: str | os.PathLike[str], kind: type[C], command: str) -> tuple[C, str]:
    """Read the manifest of a bundle of this kind, and its digest. Raises as `open_bundle`.

    `command` makes bundles of this kind.
    """
    path = Path(path)
    shown = escaped(str(path))
    with suppress(OSError, ValueError):
        put_back(Path(os.path.realpath(path)))
    if not os.path.isdir(path):  # also of names that no file can have
        raise InputMissing(f"{shown}: expected a bundle directory, found none; make one with {command}")
    document = read_manifest(path / MANIFEST)
    digest = document.pop("digest")
    if document.get("schema") != SCHEMA:
        raise BundleMismatch(
            f"{shown}: expected a bundle of schema {SCHEMA}, found {quoted(document.get('schema'))}; "
            f"build it again with this version: {command} --help"
        )
    try:
        manifest: C = from_json(kind, document, "manifest")
        expected = manifest.contracts()
    except ConfigError as error:
        raise BundleMismatch(f"{shown}: this version cannot use it: {error}; build it again") from error
    if manifest.graphs != expected:
        others = {name for name, contract in expected.items() if manifest.graphs.get(name) != contract}
        raise BundleMismatch(
            f"{shown}: expected the inputs and outputs of this version, found others for "
            f"{named(others | manifest.graphs.keys() - expected.keys())}; "
            f"build it again: {manifest.rebuild_command}"
        )
    # `expected` is equal, but in the order in which a clip uses the graphs; the JSON is sorted by name.
    manifest = dataclasses.replace(manifest, graphs=expected)
    files, used = manifest.files.keys(), manifest.used_files
    if used != files:
        raise BundleCorrupt(
            f"{shown}: {MANIFEST}: expected the SHA-256 of exactly the files that the bundle uses, found "
            f"{f'none of {named(used - files)}' if used - files else named(files - used)}; "
            "build the bundle again"
        )
    total = sum(file.num_bytes for file in manifest.files.values())
    graphs = max(manifest.files[f"graphs/{graph}.onnx"].num_bytes for graph in expected)
    if total > MAX_TOTAL or graphs > MAX_GRAPH:
        raise BundleMismatch(
            f"{shown}: expected at most {MAX_TOTAL:,} bytes, {MAX_GRAPH:,} of them in one graph, "
            f"found {total:,} and {graphs:,}"
        )
    return manifest, digest


@contextmanager
def new_bundle(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which becomes `path` when the block ends without an error.

    The block puts files into it and calls `seal` last. An existing bundle is replaced. What killed builds of
    this path have left is deleted. Raises OutputError if anything else has that name, before the block begins
    and again before it is replaced, or if the folder cannot be written.
    """
    if "\0" in os.fspath(path):
        raise OutputError(f"{os.fspath(path)}: expected a name without the character 0; choose another name")
    try:
        path = Path(os.path.realpath(path))
        put_back(path)
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path, check_replaceable) as folder:
            yield folder
    except OSError as error:
        raise OutputError(
            f"{escaped(str(path))}: cannot write the bundle: {error.strerror or one_line(message_of(error))}"
        ) from error


def seal(folder: Path, manifest: Contents) -> None:
    """Write the manifest with the digests of the bundle's files. None may change afterwards."""
    files = {name: hashed(folder / name).file for name in sorted(manifest.used_files)}
    document = dataclasses.asdict(dataclasses.replace(manifest, files=files))
    document["digest"] = digest_of(document)
    (folder / MANIFEST).write_bytes(canonical(document))


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest as a dict.

    Raises BundleError if it cannot be read, BundleCorrupt unless its bytes are those that `seal` wrote.
    """
    try:
        content = read_bytes(path, MAX_MANIFEST)
    except OSError as error:
        raise BundleError(
            f"{escaped(str(path.parent))}: expected a bundle, cannot read {path.name}: {error.strerror}"
        ) from error
    try:
        document = json.loads(content)
        rest = {key: value for key, value in document.items() if key != "digest"}
        intact = (
            not is_deeper(document, MAX_DEPTH)  # its canonical JSON, which is indented, would be large
            and content == canonical(document)
            and document["digest"] == digest_of(rest)
        )
    except (ValueError, AttributeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise BundleCorrupt(
            f"{escaped(str(path))}: expected the manifest as it was built, found a changed one; "
            "build the bundle again"
        )
    assert isinstance(document, dict)
    return document


def is_deeper(value: Any, depth: int) -> bool:
    """Whether the lists and dicts of a JSON document are nested more than `depth` times."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(is_deeper(part, depth - 1) for part in parts)


def damages(path: Path, files: dict[str, File], known: dict[str, Hashed]) -> list[str]:
    """Describe each file that does not have the given digest.

    Files with the stamp they have in `known` are not hashed; the others are added to it. All sizes are
    compared before any file is hashed.
    """
    wrong, unknown = [], []
    for name, file in files.items():
        try:
            now = stamp(os.stat(path / name))
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
            continue
        if now.num_bytes != file.num_bytes:
            wrong.append(f"{name}: expected {file.num_bytes} bytes, found {now.num_bytes}")
        elif not (name in known and known[name].settled and known[name].stamp == now):
            unknown.append(name)
    if wrong or not unknown:
        return wrong

    def damage(name: str) -> str | None:
        try:
            found = hashed(path / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found.file != files[name]:
            return f"{name}: expected SHA-256 {files[name].sha256[:12]}, found {found.file.sha256[:12]}"
        if name not in known or known[name].stamp == found.stamp:  # the first stamp tells what was loaded
            known[name] = found
        return None

    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        return [line for line in pool.map(damage, unknown) if line]


def check_replaceable(path: Path) -> None:
    """Raise OutputError unless the path is free, an empty directory or a bundle, even a damaged one."""
    if not os.path.lexists(path) or is_bundle(path):
        return
    raise OutputError(
        f"{escaped(str(path))}: expected a new name or an existing bundle, found something else; choose "
        "another name"
    )


def is_bundle(path: Path) -> bool:
    """Whether a directory is empty, or has a manifest of ours and nothing but a bundle's files."""
    if not path.is_dir():
        return False
    if not any(path.iterdir()):
        return True
    if not is_ours(path / MANIFEST):
        return False
    return all(is_bundle_file(entry.relative_to(path)) for entry in path.rglob("*"))


def is_bundle_file(name: Path) -> bool:
    """Whether a file or folder of this name in a bundle is part of it, or left there by a file manager."""
    if any(part.lower() in SYSTEM_NAMES or part.startswith("._") for part in name.parts):
        return True
    kind = name.parent.as_posix(), name.suffix
    return name.as_posix() in (MANIFEST, WEIGHTS, "graphs", "engines") or kind in KINDS


def is_ours(manifest: Path) -> bool:
    """Whether a file is a bundle's manifest, possibly a damaged one, and not the JSON of something else."""
    try:
        document = json.loads(read_bytes(manifest, MAX_MANIFEST))
    except OSError:
        return False
    except (ValueError, RecursionError):  # no JSON at all
        return True
    fields = {field.name for field in dataclasses.fields(Manifest)}
    return isinstance(document, dict) and len(fields & document.keys()) > len(fields) / 2
