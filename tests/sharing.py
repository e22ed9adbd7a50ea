"""Expensive things made once: bundles for all processes of a test run, compiled engines for each process."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from animate_rt.engines.cpu import openvino
from animate_rt.engines.precision import Precision


def one_thread_each() -> None:
    """Let torch compute on one thread in each of several test processes, and in theirs.

    Threads of OpenMP wait for each other by spinning. On 2 busy cores, a call of a small UNet took 30 ms of
    CPU time on one thread and 1,200 ms on two.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all processes of this test run see."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes out of the same block for the same path."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def compiled_once() -> Iterator[None]:
    """Compile a graph of the same bytes only once in this process. Each engine still has its own counter of
    runs and its own contexts.

    OpenVINO maps the file of weights, so a test that writes to it compiles with `compile_graph.original`.
    """
    compile_graph = openvino.compile_graph
    compiled: dict[tuple[Any, ...], Any] = {}

    def compile_or_reuse(path: Path, weights: Path, precision: Precision) -> Any:
        key = (path.name, digest(path), digest(weights), precision)
        if key not in compiled:
            compiled[key] = compile_graph(path, weights, precision)
        return compiled[key]

    compile_or_reuse.original = compile_graph  # type: ignore[attr-defined]
    openvino.compile_graph = compile_or_reuse
    try:
        yield
    finally:
        openvino.compile_graph = compile_graph


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
