"""Free memory of the host: the kernel's figure, or less where a control group has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.cpu.free_memory import free_bytes

DROPPABLE = {
    1: ("total_inactive_file", "total_active_file"),
    2: ("inactive_file", "active_file", "slab_reclaimable"),
}
NONE = 2**63 - 4096  # version 1's limit of a group without one


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def group(folder: str, limit: object, used: int, droppable: int, version: int) -> dict[str, object]:
    names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
    first, *others = DROPPABLE[version]
    part = droppable // len(DROPPABLE[version])
    sizes = {first: droppable - part * len(others), **dict.fromkeys(others, part)}
    lines = "\n".join(f"{name} {size}" for name, size in sizes.items())
    return {
        f"sys/fs/cgroup/{folder}/memory.{names[0]}": limit,
        f"sys/fs/cgroup/{folder}/memory.{names[1]}": used,
        f"sys/fs/cgroup/{folder}/memory.stat": f"anon 5\n{lines}",
    }


@pytest.mark.parametrize(
    ("cgroup", "groups", "expected"),
    [
        ("0::/", {}, 5_120_000),
        ("0::/a/b", group("a/b", "max", 1000, 0, 2), 5_120_000),
        ("0::/a/b", group("a/b", 3000, 1000, 300, 2), 2300),
        ("0::/a/b", group("a/b", "max", 1, 0, 2) | group("a", 4000, 1500, 0, 2), 2500),
        ("0::/", group(".", 3000, 1000, 0, 2), 2000),
        ("0::/a", group("a", 1000, 3000, 0, 2), 0),
        ("0::/a", group("a", 10**12, 3000, 0, 2), 5_120_000),
        ("4:memory:/a\n0::/", group("memory/a", 7000, 1000, 500, 1), 6500),
        ("4:cpu,memory:/a", group("memory/a", NONE, 1000, 500, 1) | group("memory", 900, 100, 0, 1), 800),
        ("4:memory:/docker/x", group("memory", 900, 100, 0, 1), 800),  # as a container sees it
        ("5:cpu:/a", group("memory/a", 900, 100, 0, 1), 5_120_000),
        ("0::/a", {"sys/fs/cgroup/a/memory.max": "3000"}, 5_120_000),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, cgroup: str, groups: dict[str, object], expected: int
) -> None:
    assert free_bytes(write(tmp_path, {"proc/self/cgroup": cgroup, **groups})) == expected


def test_systems_without_these_files(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 1 << 24


def test_this_machine() -> None:
    assert 1 << 24 < CPUDevice().free_bytes() <= free_bytes() * 1.5
