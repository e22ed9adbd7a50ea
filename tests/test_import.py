"""What `import animate_rt` costs and what the runtime may not need."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
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


PRODUCT = ("export", "engines", "runtime", "benchmarks")
# Who may import whom; everyone may import the ground floor, and from below in its own list.
GROUND = ["errors", "atomic", "console"]
FLOORS = [
    *GROUND,
    "engines",
    "export",
    "runtime.media",
    "runtime.streams",
    "runtime.clip",
    "runtime.animator",
    "runtime.shots",
    "runtime.farm",
    "__init__",
    "demo",
    "benchmarks",
    "__main__",
]


def modules() -> dict[str, Path]:
    """Every module of the product by its name within the package; a folder's name is its `__init__`."""
    paths = [*ROOT.glob("*.py"), *(path for name in PRODUCT for path in (ROOT / name).rglob("*.py"))]
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    del found["setup"]
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def edges() -> dict[str, set[str]]:
    """Which modules of the product each one imports, wherever in the file it does so."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        package = list(path.relative_to(ROOT).parts[:-1])
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                module = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:
                    inner = f"{module}.{alias.name}" if module else alias.name
                    targets.add(inner if inner in known else module or "__init__")
        found[name] = targets - {name}
    return found


def floor(name: str) -> int:
    """The floor of a module: that of the longest listed name it begins with."""
    fitting = [listed for listed in FLOORS if name == listed or name.startswith(f"{listed}.")]
    assert fitting, f"{name} has no floor"
    return FLOORS.index(max(fitting, key=len))


def test_no_import_goes_up() -> None:
    imported = edges()
    assert sum(map(len, imported.values())) > 300
    up = [
        f"{name} -> {target}"
        for name, targets in imported.items()
        for target in targets
        if floor(target) > floor(name)
    ]
    assert not up
    # The two sides of an export know nothing of each other.
    assert not [
        n for n, ts in imported.items() if n.startswith("runtime") for t in ts if t.startswith("export")
    ]
    assert not [
        n for n, ts in imported.items() if n.startswith("export") for t in ts if t.startswith("runtime")
    ]


def test_no_import_goes_round() -> None:
    TopologicalSorter(edges()).prepare()  # raises CycleError


@pytest.mark.parametrize("folder", ["runtime", "engines"])
def test_runtime_and_engines_never_import_the_training_side(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert len(files) > 20
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
            assert not prefixes & TRAINING_SIDE, f"{path.name} imports {name}"


def test_the_public_names() -> None:
    assert animate_rt.__all__ == [
        "AnimateError",
        "Animator",
        "BuildError",
        "BundleCorrupt",
        "BundleError",
        "BundleMismatch",
        "Cancelled",
        "CheckpointError",
        "ClipOptions",
        "ConfigError",
        "DeviceError",
        "InputError",
        "InputMissing",
        "OutOfMemory",
        "OutputError",
        "Progress",
        "Rejected",
        "open_writer",
    ]
    assert all(hasattr(animate_rt, name) for name in animate_rt.__all__)


def test_no_file_is_long() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    long = {path.name: count for path, count in lines.items() if count > 350 and ".venv" not in path.parts}
    assert not long
    assert lines[ROOT / "__main__.py"] <= 80
