"""The cost of `import animate_rt`, which modules import which, the public names, and the length of files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import animate_rt
import pytest

ROOT = Path(animate_rt.__file__).parent
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "av",
    "PIL",
    "yaml",
    "fastapi",
)
TRAINING_SIDE = {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "yaml", "animate_rt.export"}
BAR_MS = 150

MEASURE = """
import json, sys, time
import numpy
began = time.process_time()  # which other programs change less
import animate_rt
print(json.dumps([1000 * (time.process_time() - began), sorted(sys.modules)]))
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


def test_importing_loads_no_heavy_package() -> None:
    assert not measure()[1] & set(HEAVY)


PRODUCT = ("export", "engines", "runtime", "benchmarks")
GROUND = {"text", "errors", "atomic", "locks", "console"}
# What the modules of each area may import besides their own area: the picture in docs/structure.md.
ALLOWED = {
    "text": set(),
    "errors": {"text"},
    "atomic": {"errors", "text"},
    "locks": set(),
    "console": {"errors", "text"},
    "engines": GROUND,
    "export": {
        "runtime.shots",
        "runtime.poses",
        "runtime.animator",
        "runtime.clip",
        "runtime.media",
        "engines",
        *GROUND,
    },
    "runtime.media": GROUND,
    "runtime.poses": {"runtime.media", "engines", *GROUND},
    "runtime.marks": {"runtime.poses", "runtime.media", "engines", *GROUND},
    "runtime.streams": {"engines", *GROUND},
    "runtime.clip": {"runtime.media", "runtime.streams", "engines", *GROUND},
    "runtime.animator": {"runtime.clip", "runtime.media", "runtime.streams", "engines", *GROUND},
    "runtime.shots": {
        "runtime.marks",
        "runtime.poses",
        "runtime.animator",
        "runtime.clip",
        "runtime.media",
        "engines",
        *GROUND,
    },
    "runtime.farm": {
        "runtime.shots",
        "runtime.marks",
        "runtime.animator",
        "runtime.clip",
        "runtime.media",
        "engines",
        *GROUND,
    },
    "runtime.service": {
        "runtime.shots",
        "runtime.marks",
        "runtime.poses",
        "runtime.animator",
        "runtime.clip",
        "runtime.media",
        "engines",
        *GROUND,
    },
    "runtime.service.http": {
        "runtime.service",
        "runtime.shots",
        "runtime.poses",
        "runtime.marks",
        "runtime.media",
        "runtime.clip",
        "engines",
        *GROUND,
    },
    "__init__": {
        "runtime.service",
        "runtime.poses",
        "runtime.animator",
        "runtime.clip",
        "runtime.media",
        "runtime.marks",
        "errors",
    },
    "demo": {"runtime.shots", "runtime.animator", "runtime.media", "export", *GROUND},
    "benchmarks": {
        "runtime.animator",
        "runtime.clip",
        "runtime.marks",
        "runtime.media",
        "runtime.poses",
        "runtime.service",
        "runtime.service.http",
        "runtime.streams",
        "engines",
        "export",
        *GROUND,
    },
    "__main__": {
        "benchmarks",
        "demo",
        "engines",
        "export",
        "runtime.clip",
        "runtime.farm",
        "runtime.marks",
        "runtime.poses",
        "runtime.service.http",
        "runtime.shots",
        *GROUND,
    },
}


def modules() -> dict[str, Path]:
    """Every module of the product by its name within the package; a folder's name is its `__init__`."""
    paths = [*ROOT.glob("*.py"), *(path for name in PRODUCT for path in (ROOT / name).rglob("*.py"))]
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    del found["setup"]
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def imports(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, inside functions too."""
    package = ["animate_rt", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def edges() -> dict[str, set[str]]:
    """The modules of the product that each one imports."""
    known = modules()
    found = {}
    for name, path in known.items():
        inner = {i.removeprefix("animate_rt.") for i in imports(path) if i.startswith("animate_rt.")}
        # "runtime.clip.options.ClipOptions" is a name in a module, "runtime.clip.options" a module.
        targets = {target if target in known else target.rpartition(".")[0] for target in inner}
        found[name] = {target or "__init__" for target in targets} - {name}
    return found


def area(name: str) -> str:
    """The area of a module: the longest name in ALLOWED that its name begins with."""
    fitting = [listed for listed in ALLOWED if name == listed or name.startswith(f"{listed}.")]
    assert fitting or name == "runtime", f"{name} belongs to no area"
    return max(fitting, key=len, default=name)


def test_modules_import_only_from_the_areas_below_theirs() -> None:
    imported = edges()
    assert sum(map(len, imported.values())) > 300
    wrong = [
        f"{name} -> {target}"
        for name, targets in imported.items()
        for target in targets
        if area(target) != area(name) and area(target) not in ALLOWED[area(name)]
    ]
    assert not wrong


def test_areas_and_modules_import_each_other_in_no_cycle() -> None:
    TopologicalSorter(ALLOWED).prepare()  # raises CycleError
    TopologicalSorter(edges()).prepare()


@pytest.mark.parametrize("folder", ["runtime", "engines"])
def test_runtime_and_engines_never_import_the_training_side(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert len(files) > 20
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
            assert not prefixes & TRAINING_SIDE, f"{path.name} imports {name}"


def test_the_structure_page_names_every_module() -> None:
    """Every file or its folder is in the table of files once, and everything in the table exists."""
    page = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    rows = page[page.index("## Files") :].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    named = set(names)
    assert not [name for name in named if names.count(name) > 1]
    for name in named:
        assert (ROOT / name).exists(), name
    for path in modules().values():
        name = path.relative_to(ROOT).as_posix()
        folders = {f"{parent.as_posix()}/" for parent in path.relative_to(ROOT).parents}
        assert path.name == "__init__.py" or name in named or folders & named, name


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
        "ClipRequest",
        "ConfigError",
        "ConsentList",
        "DeadlineMissed",
        "Detection",
        "DeviceError",
        "FrameWriter",
        "Frames",
        "InputError",
        "InputMissing",
        "Job",
        "JobStatus",
        "KeyReused",
        "Keypoints",
        "MarkOptions",
        "Marks",
        "OutOfMemory",
        "OutputError",
        "Payload",
        "Policy",
        "PoseSequence",
        "Progress",
        "QueueFull",
        "Refused",
        "Rejected",
        "Service",
        "ServiceClosed",
        "Snapshot",
        "SnapshotSink",
        "detect",
        "open_poses",
        "open_writer",
        "read_keypoints",
        "write_keypoints",
    ]
    assert all(hasattr(animate_rt, name) for name in animate_rt.__all__)


def test_every_error_is_public_or_raised_only_by_commands() -> None:
    errors = {name: error for name, error in vars(animate_rt.errors).items() if isinstance(error, type)}
    commands = {
        name for name, error in errors.items() if "Raised only by the command" in (error.__doc__ or "")
    }
    assert commands == {"InputChanged", "ClusterError", "ShotsFailed", "Regressed"}
    assert errors.keys() - commands == errors.keys() & set(animate_rt.__all__)
    page = animate_rt.errors.__doc__
    assert all(re.search(rf"\b{name}\b", page) for name in errors)


def test_no_file_is_long() -> None:
    paths = [*modules().values(), *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py"]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert not {path.name: count for path, count in lines.items() if count > 350}
    assert lines[ROOT / "__main__.py"] <= 80
