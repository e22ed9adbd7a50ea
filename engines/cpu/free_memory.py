"""How much memory of this machine a process can still take.

That is what the kernel says is available, or what a control group leaves of its limit if that is less: a
container's limit, for instance. Both count as free what the kernel can drop: pages of files, above all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Of a control group: limit, use, and the lines of memory.stat with what can be dropped.
VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
VERSION_2 = "memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")


def free_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory that can still be allocated."""
    try:
        machine = numbers(root / "proc/meminfo")["MemAvailable:"] * 1024
    except (OSError, KeyError):
        machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *left_by_groups(root)])


def left_by_groups(root: Path) -> Iterator[int]:
    """What each control group of this process that has a limit leaves of it."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _number, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            group = top / path.strip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # there is none, or it has no limit: "max"
                    yield left_by(folder, VERSION_1 if controllers else VERSION_2)
                if folder == top:
                    break


def left_by(group: Path, files: tuple[str, str, tuple[str, ...]]) -> int:
    """Bytes that one control group leaves of its limit."""
    limit, used, droppable = files
    statistics = numbers(group / "memory.stat")
    in_use = int((group / used).read_text()) - sum(statistics.get(name, 0) for name in droppable)
    return max(0, int((group / limit).read_text()) - max(0, in_use))


def numbers(path: Path) -> dict[str, int]:
    """The lines of a file that begin with a name and a number."""
    parts = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in parts if len(words) > 1 and words[1].isdigit()}
