"""The machine that a benchmark runs on; None is unknown."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from time import sleep
from typing import Any

PACKAGES = (
    "animate-rt",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)
BUSY, WATCH_S = 0.1, 0.5  # fraction of the processor others may use; seconds to observe
GPU_FIELDS = {  # nvidia-smi's name: ours
    "name": "name",
    "uuid": "uuid",
    "driver_version": "driver",
    "memory.total": "memory_mib",
    "clocks.sm": "clock_mhz",
    "clocks.max.sm": "max_clock_mhz",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
    "clocks_event_reasons.active": "throttle_reasons",
}


def describe() -> dict[str, Any]:
    """The machine now, for a result. The load averages include the benchmark itself."""
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "gpu": gpu(),
    }


def cpu() -> str | None:
    models = [line.partition(": ")[2] for line in lines("/proc/cpuinfo") if line.startswith("model name")]
    return models[0] if models else platform.processor() or None


def gpu() -> dict[str, str] | None:
    """The first GPU as its driver describes it now, including clocks; None if there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    gpus = output_of(command).splitlines()
    return dict(zip(GPU_FIELDS.values(), gpus[0].split(", "), strict=False)) if gpus else None


def commit() -> str | None:
    """The commit of this checkout, with -dirty if it has changes."""
    describe = ["git", "-C", os.fspath(Path(__file__).parent), "describe", "--always", "--dirty"]
    return output_of(describe).strip() or None


def output_of(command: list[str]) -> str:
    """The standard output of a command; empty if it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def reset_peak() -> None:
    """Reset `peak_bytes`. If the system refuses, the peak still counts from the process's start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes(process: int | None = None) -> int | None:
    """The most memory that this process, or another one, has had resident."""
    sizes = [
        int(line.split()[1])
        for line in lines(f"/proc/{process or 'self'}/status")
        if line.startswith("VmHWM")
    ]
    return 1024 * sizes[0] if sizes else None


def cpu_seconds(process: int) -> float:
    """Processor time of a process and its children, in steps of 10 ms."""
    children = [
        int(child)
        for listed in Path(f"/proc/{process}/task").glob("*/children")
        for line in lines(listed)
        for child in line.split()
    ]
    ticks = [sum(map(int, line.rpartition(")")[2].split()[11:13])) for line in lines(f"/proc/{process}/stat")]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


def lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def busy_warnings() -> list[str]:
    """A warning if other processes use the machine; call this before measuring."""
    idle, total = processor_time()
    sleep(WATCH_S)
    still_idle, later = processor_time()
    fraction = 1 - (still_idle - idle) / (later - total) if later > total else 0.0
    if fraction <= BUSY:
        return []
    return [f"others used {100 * fraction:.0f} % of the processor before this run: its figures are inexact"]


def processor_time() -> tuple[int, int]:
    """Idle and total time of all cores since boot, in ticks; 0, 0 if unknown."""
    for line in lines("/proc/stat")[:1]:  # cpu user nice system idle iowait irq softirq steal guest ...
        times = [int(field) for field in line.split()[1:9]]
        return times[3] + times[4], sum(times)
    return 0, 0
