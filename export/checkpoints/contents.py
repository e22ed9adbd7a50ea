"""What a file is, found out before it is read: its type, its size, and its first bytes.

Public weights are large and often not there: in their place lie pointers of Git LFS, web pages, parts of
downloads, links to nothing.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from ...errors import CheckpointError
from ...text import message_of, quoted

HEAD = 512  # bytes
DOCUMENT_BYTES = 200_000  # public config files have 2,000
AGAIN = "download it again"

# What files begin with, and what to say about them.
SIGNATURES = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS of {size:,} bytes, not {wanted}; git lfs pull, or download it",
    ),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xfd7zXZ", "an xz archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"GGUF", "a GGUF file; convert it to safetensors"),
    (b"\x89HDF", "an HDF5 file; convert it to safetensors"),
    (b"\x80", "a pickle that torch.save did not write; save the state dict with torch.save"),
)
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg", b"<error")
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def file_size(path: Path) -> int:
    """Return the size of a regular file in bytes. Raises CheckpointError if the path is anything else."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        reason = getattr(error, "strerror", None)
        if reason is None or isinstance(error, FileNotFoundError):
            reason = "none"
        if os.path.islink(path):
            reason = "a link to a file that is not there"
        raise CheckpointError(f"{path}: expected a file, found {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise CheckpointError(f"{path}: expected a file, found {kind}")
    return found.st_size


def recognised(path: Path, wanted: str) -> str | None:
    """What a regular file is instead of `wanted`, and what to do about it; None if unknown."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.strip(b"\0"):
        return f"{size:,} zero bytes, a download that has not ended; {AGAIN}" if head else f"empty; {AGAIN}"
    for signature, what in SIGNATURES:
        if head.startswith(signature):
            return what.format(size=size, wanted=wanted)
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if head.lstrip().lower().startswith(PAGES):
        return "a web page; download the file itself, logged in if it must be"
    return None


def described(path: Path, wanted: str) -> str:
    """As `recognised`, but of any file."""
    if what := recognised(path, wanted):
        return what
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.isascii() and b"\0" not in head:
        return f"text ({quoted(head.decode(), 60)}); {AGAIN}"
    return f"damaged, or in a format that is not supported; {AGAIN}"


def read_document(path: Path, limit: int = DOCUMENT_BYTES) -> Any:
    """Read a .json file, or else a YAML file, of at most `limit` bytes.

    Raises CheckpointError if it is no regular file, too large, or cannot be parsed.
    """
    form = "JSON" if path.suffix == ".json" else "YAML"
    if (size := file_size(path)) > limit:
        raise CheckpointError(f"{path}: expected {form} of at most {limit:,} bytes, found {size:,}")
    try:
        reason = (what := recognised(path, form)) and f"it is {what}"
        if not reason:
            text = path.read_text(encoding="utf-8-sig")
            if form == "JSON":
                return json.loads(text, object_pairs_hook=each_once)
            return PlainLoader(text).get_single_data()
    except OSError as error:
        raise CheckpointError(f"{path}: expected {form}, cannot read it: {error.strerror}") from error
    except RecursionError:
        reason = "it has too many levels"
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        reason = quoted(message_of(error), 300)
    raise CheckpointError(f"{path}: expected {form}, cannot parse it: {reason}")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError if it has a key twice, of which readers take the first or the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"expected each key once, found {quoted(key)} twice")
        found[key] = value
    return found


class PlainLoader(yaml.SafeLoader):
    """YAML of mappings, lists, texts and numbers alone, with each key once.

    A few lines of aliases can stand for more values than memory holds. Tags demand types, and PyYAML raises
    errors of any class for values that have none.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise yaml.YAMLError("aliases (*name) and tags (!name) are not supported; write the values out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        made = super().construct_mapping(node, deep=deep)
        if len(made) < len(node.value):
            raise yaml.YAMLError(f"expected each key once, found one twice{node.start_mark}")
        return made
