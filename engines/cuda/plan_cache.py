"""Cache of plans and of TensorRT's kernel timings for later builds, in the user's cache folder.

    ~/.cache/animate-rt/plans/<key>                 SHA-256 and memory as one line of JSON, then the plan
    ~/.cache/animate-rt/timings/<version, device>   SHA-256, then TensorRT's timing cache

The cache is optional: if an entry is absent, damaged or cannot be written, the build only takes longer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ...atomic import atomic
from ...errors import ConfigError, OutputError
from ..cache import cache_folder, shrink
from ..contract import Memory
from ..files import open_regular
from ..json_document import from_json

log = logging.getLogger("animate_rt.cache")

PLAN_BYTES = 16 << 30  # limit of all plans together: two bundles at full size
CHUNK_BYTES = 1 << 22
HEAD_BYTES = 1000  # the first line of an entry has about 130


class PlanCache:
    """Plans by the digest of everything they depend on. The least recently used are deleted first."""

    def __init__(self, folder: Path | None = None, num_bytes: int = PLAN_BYTES):
        root = cache_folder()
        self.folder = folder or (root and root / "plans")
        self.num_bytes = num_bytes

    def fill(self, key: dict[str, Any], plan: Path, build: Callable[[], Memory | None]) -> Memory | None:
        """Write the plan of this key to `plan` and return its memory. `build` does so if it is not cached."""
        if self.folder is None:
            return build()
        entry = self.folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        try:
            memory = read_entry(entry, plan)
            os.utime(entry)
            log.info("%s: taken from the cache: %s", plan.name, entry)
            return memory
        except (OSError, OutputError, ValueError, ConfigError, RecursionError) as error:
            log.debug("%s: not in the cache: %s", plan.name, error)
        memory = build()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_entry(entry, plan, memory)
            shrink(self.folder, self.num_bytes)
        except (OSError, OutputError) as error:
            log.warning("%s: cannot be cached: %s", plan.name, error)
        return memory


def read_entry(entry: Path, plan: Path) -> Memory | None:
    """Copy an entry's plan to `plan` and return its memory. Raises an error if it is absent or damaged."""
    with open_regular(entry) as source, atomic(plan) as temporary, temporary.open("xb") as target:
        head = json.loads(source.readline(HEAD_BYTES))
        if not isinstance(head, dict) or head.keys() != {"sha256", "memory"}:
            raise ValueError("its first line is not that of a plan")
        if copy(source, target) != head["sha256"]:
            raise ValueError("its SHA-256 does not match")
        found = head["memory"]
        memory: Memory | None = None if found is None else from_json(Memory, found, "memory")
        return memory


def write_entry(entry: Path, plan: Path, memory: Memory | None) -> None:
    with plan.open("rb") as source, atomic(entry) as temporary, temporary.open("xb") as target:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        head = {"sha256": digest, "memory": memory and dataclasses.asdict(memory)}
        target.write(json.dumps(head).encode() + b"\n")
        source.seek(0)
        copy(source, target)


def copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy the rest of a file and return its SHA-256."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


class TimingCache:
    """TensorRT's timing cache of one version and device, attached to a builder's config.

    Builders share the file: each reads it at its start and merges its own timings into it at its end. If two
    end at the same time, the timings of one may be lost, but the file is never damaged.
    """

    def __init__(self, config: Any, version: str, device: str, folder: Path | None = None):
        root = cache_folder()
        folder = folder or (root and root / "timings")
        name = "".join(c if c.isalnum() or c in "._" else "-" for c in f"{version} {device}")
        self.path = folder and folder / name
        self.config = config
        self.cache = config.create_timing_cache(self.read())
        if not config.set_timing_cache(self.cache, ignore_mismatch=False):  # such as after a driver update
            self.cache = config.create_timing_cache(b"")
            config.set_timing_cache(self.cache, ignore_mismatch=False)

    def read(self) -> bytes:
        """The cached timings; empty if the file is absent or damaged."""
        try:
            content = self.path.read_bytes() if self.path else b""
        except OSError:
            return b""
        digest, content = content[:32], content[32:]
        return content if hashlib.sha256(content).digest() == digest else b""

    def write(self) -> None:
        if self.path is None:
            return
        if others := self.read():
            self.cache.combine(self.config.create_timing_cache(others), ignore_mismatch=False)
        content = bytes(self.cache.serialize())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(self.path) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
        except (OSError, OutputError) as error:
            log.warning("timings cannot be cached: %s", error)
