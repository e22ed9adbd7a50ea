"""The wheel holds every module of the package and the data that the commands need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import animate_rt
import pytest

ROOT = Path(animate_rt.__file__).parent
PRODUCT = ("export", "engines", "runtime", "benchmarks")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "py.typed"):
        shutil.copy(ROOT / name, source)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, source)
    for name in (*PRODUCT, "weights", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder)], cwd=source, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_module_is_in_the_wheel(names: set[str]) -> None:
    modules = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    modules += [path for name in PRODUCT for path in (ROOT / name).rglob("*.py")]
    expected = {f"animate_rt/{path.relative_to(ROOT).as_posix()}" for path in modules}
    assert len(expected) > 150
    found = {name for name in names if name.endswith(".py")}
    assert found == expected


def test_data_of_the_commands_is_in_the_wheel(names: set[str]) -> None:
    assert "animate_rt/py.typed" in names
    files = [path for path in (ROOT / "weights").rglob("*") if path.is_file()]
    page = [*(ROOT / "runtime" / "service" / "http" / "page").iterdir()]
    assert {"index.html", "script.js", "style.css"} <= {path.name for path in page}
    files += page
    recorded = ROOT / "tests" / "data" / "small"  # the smallest size of `animate-rt bench`
    files += [path for folder in ("checkpoint", "pose") for path in (recorded / folder).rglob("*.*")]
    files += [recorded / "inference.yaml", recorded / "reference.png"]
    assert len(files) > 50
    assert not {f"animate_rt/{path.relative_to(ROOT).as_posix()}" for path in files} - names


def test_an_editable_install_finds_every_folder() -> None:
    """This test runs in one, which maps the package to the checkout and cannot miss a folder."""
    for path in (path for name in PRODUCT for path in (ROOT / name).rglob("__init__.py")):
        name = ".".join(["animate_rt", *path.parent.relative_to(ROOT).parts])
        assert find_spec(name) is not None, name
