"""The stand-in and our code use only what the real packages of CUDA and TensorRT offer.

TensorRT's bindings are loaded over an empty library of the functions they need, so this needs neither
TensorRT nor a GPU. Wheels are unpacked in a temporary folder and never installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import animate_rt
import pytest

from .sharing import alone, shared_folder
from .standin import builder, cuda_core, cuda_driver, tensorrt
from .surface import Surface, missing, surface

FUNCTIONS = (  # of TensorRT's library, that its bindings call
    *(f"createInfer{what}_INTERNAL" for what in ("Builder", "Refitter", "Runtime")),
    *(f"createNvOnnxParser{what}_INTERNAL" for what in ("", "Refitter")),
    *("getBuilderPluginRegistry", "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins"),
)
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
CUDA = {
    "oldest": ("cuda-core==1.2.0", "cuda-bindings==13.0.0"),  # that setup.py allows
    "installed": (),
}
TENSORRT = {
    "10.12": ("tensorrt-cu12-bindings==10.12.0.36",),  # the oldest that setup.py allows
    "10.13": ("tensorrt-cu12-bindings==10.13.3.9.post1",),
    "11.4": ("tensorrt-cu13-bindings==11.4.0.106",),
    "RTX": (),
}
CONSTRUCTED = {  # others are made by the packages themselves
    *("Device", "EventOptions", "LaunchConfig", "LegacyPinnedMemoryResource", "Program", "ProgramOptions"),
    *("Builder", "OnnxParser", "Runtime"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = shared_folder(tmp_path_factory) / "wheels"
    made.mkdir(exist_ok=True)
    return made


def unpacked(folder: Path, requirement: str) -> Path:
    """The content of a wheel. Skips the test where the package index is out of reach."""
    made = folder / requirement
    with alone(made):
        if not made.is_dir():
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
            done = subprocess.run(
                [*pip, "--dest", made, requirement], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                shutil.rmtree(made, ignore_errors=True)
                pytest.skip(f"cannot fetch {requirement}: {done.stderr.splitlines()[-1:]}")
            for wheel in made.glob("*.whl"):
                shutil.unpack_archive(wheel, made, "zip")
    return made


def link_empty_libraries(bindings: Path, version: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = bindings / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        target = bindings / f"{library}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", target], check=True)


def real_surface(module: str, names: list[str], paths: list[Path]) -> Surface:
    """The surface of a package, imported in a process of its own."""
    search = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "animate_rt.tests.surface", module, *names],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Surface = json.loads(done.stdout.splitlines()[-1])
    return found


def of_standin(*modules: ModuleType) -> Surface:
    found: Surface = {}
    for module in modules:
        found |= surface(module, module.__all__)
    for name, members in found.items():
        if name not in CONSTRUCTED:
            members.pop("__init__", None)
    return found


TRT = of_standin(tensorrt, builder)
CORE = of_standin(cuda_core)


@pytest.fixture(scope="module", params=TENSORRT)
def real_tensorrt(request: pytest.FixtureRequest, folder: Path) -> Surface:
    if request.param == "RTX":
        pytest.importorskip("tensorrt_rtx", reason="its wheels exist for Linux and Windows on x86-64 only")
        return real_surface("tensorrt_rtx", [*TRT], [])
    (requirement,) = TENSORRT[request.param]
    path = unpacked(folder, requirement)
    link_empty_libraries(path / "tensorrt_bindings", request.param)
    return real_surface("tensorrt_bindings", [*TRT], [path])


@pytest.fixture(scope="module", params=CUDA)
def cuda_paths(request: pytest.FixtureRequest, folder: Path) -> list[Path]:
    pytest.importorskip("cuda.core")
    return [unpacked(folder, requirement) for requirement in CUDA[request.param]]


def each_missing(real: Surface, ours: Surface) -> Iterator[str]:
    """Leave out each name of the real surface in turn that is also in ours; yield those not noticed."""
    for name, members in ours.items():
        for member in members:
            without = {**real, name: {m: p for m, p in real[name].items() if m != member}}
            if missing(ours, without) != [f"{name}.{member}"]:
                yield f"{name}.{member}"
        if missing(ours, {other: real[other] for other in real if other != name}) != [name]:
            yield name


def test_tensorrt_has_everything_of_the_stand_in(real_tensorrt: Surface) -> None:
    assert missing(TRT, real_tensorrt) == []
    assert list(each_missing(real_tensorrt, TRT)) == []


def test_cuda_core_has_everything_of_the_stand_in(cuda_paths: list[Path]) -> None:
    real = real_surface("cuda.core", [*CORE], cuda_paths)
    assert missing(CORE, real) == []
    assert list(each_missing(real, CORE)) == []


def test_the_driver_has_everything_of_the_stand_in(cuda_paths: list[Path]) -> None:
    """Its functions are called with positional arguments, so their number counts."""
    ours, names = of_standin(cuda_driver), [*cuda_driver.__all__]
    real = real_surface("cuda.bindings.driver", names, cuda_paths)
    for name, members in ours.items():
        if (mine := members.get("__call__")) is None:
            assert members.keys() <= real[name].keys()
            continue
        theirs = real[name]["__call__"]
        assert theirs is not None, name
        assert len([one for one in mine if one.lstrip("_") != "gpu"]) == len(theirs), name
    assert real.keys() == ours.keys()


def used(pattern: str) -> set[str]:
    """What the pattern's group matches in the code of the engines."""
    sources = (Path(animate_rt.__file__).parent / "engines").rglob("*.py")
    return {found for path in sources for found in re.findall(pattern, path.read_text())}


def test_the_stand_in_has_every_name_that_our_code_takes_from_a_package() -> None:
    """Other names belong to objects of the stand-in, which has no more than the real packages."""
    names = used(r"\btrt\.([A-Za-z][\w.]+)")
    assert len(names) > 8
    for name, _, member in (found.partition(".") for found in names):
        if name == "ComputeCapability":
            continue  # only of tensorrt_rtx
        assert name in TRT, name
        assert not member or member in TRT[name] or member == "__init__", f"{name}.{member}"
    functions = used(r'call_driver\(\s*"(\w+)"') | used(r"\bdriver\.(\w+)")
    assert functions <= {*cuda_driver.__all__}
    imported = {name for names in used(r"from cuda\.core import ([\w, ]+)") for name in names.split(", ")}
    assert len(functions) > 5 < len(imported)
    assert imported <= {*cuda_core.__all__}


def test_a_wrong_keyword_is_found() -> None:
    mine: Surface = {"Runtime": {"load": ["path"]}, "launch": {"__call__": ["grid"]}}
    assert missing(mine, {"Runtime": {"load": ["file"]}, "launch": {"__call__": ["grid", "block"]}}) == [
        "Runtime.load(path)"
    ]
