"""What `import animate_rt` costs and what the runtime may not need."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import animate_rt
import pytest

ROOT = Path(animate_rt.__file__).parent
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "av", "PIL", "yaml")
TRAINING_SIDE = {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "yaml", "animate_rt.export"}
BAR_MS = 150

MEASURE = """
import json, sys, time
import numpy
began = time.perf_counter()
import animate_rt
print(json.dumps([1000 * (time.perf_counter() - began), sorted(sys.modules)]))
"""


def measure() -> tuple[float, set[str]]:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    milliseconds, modules = json.loads(done.stdout)
    return milliseconds, set(modules)


def test_importing_is_cheap(capsys: pytest.CaptureFixture[str]) -> None:
    times = [measure()[0] for _ in range(5)]
    with capsys.disabled():
        print(f"\nimport animate_rt: {min(times):.0f} ms beyond numpy")
    assert min(times) <= BAR_MS


def test_importing_loads_no_heavyweight() -> None:
    assert not measure()[1] & set(HEAVY)


def imports(path: Path) -> set[str]:
    """Absolute names of everything a file imports, wherever it does so."""
    package = ["animate_rt", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


@pytest.mark.parametrize("folder", ["runtime", "engines"])
def test_runtime_and_engines_never_reach_for_the_training_side(folder: str) -> None:
    files = list((ROOT / folder).glob("*.py"))
    assert len(files) > 5
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
            assert not prefixes & TRAINING_SIDE, f"{path.name} imports {name}"
            if folder == "engines":
                assert not name.startswith("animate_rt.runtime"), f"{path.name} imports {name}"


def test_the_public_names() -> None:
    assert animate_rt.__all__ == sorted(animate_rt.__all__)
    public = {name for name, value in vars(animate_rt).items() if isinstance(value, type)}
    assert public == set(animate_rt.__all__)
