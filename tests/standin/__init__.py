"""A strict stand-in for CUDA and TensorRT, to test GPU code without a GPU.

    with installed(seed=1) as gpu:
        device = CUDADevice(timing=False)

In the block, `cuda.core`, `cuda.bindings.driver` and `tensorrt` are modules of this folder, written from
their documentation. A mistake in their use raises StandInError where it happens, and again at the end of the
block in case it was caught.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from shutil import copytree
from types import ModuleType
from typing import Any

import pytest
from animate_rt.engines.bundle import MANIFEST, open_bundle, seal

from . import builder, cuda_core, cuda_driver, tensorrt
from .memory import StandInError
from .streams import GPU, INSTALLED

__all__ = ["GPU", "StandInError", "caught", "installed", "packages", "tensorrt_bundle"]


@contextmanager
def installed(seed: int = 0, **options: Any) -> Iterator[GPU]:
    """Make imports find the stand-in. The seed decides when and in which order streams run."""
    gpu = GPU(seed, **options)
    core, driver = module("cuda.core", cuda_core), module("cuda.bindings.driver", cuda_driver)
    bindings = module("cuda.bindings", driver=driver)
    building = {name: getattr(builder, name) for name in builder.__all__}
    modules: dict[str, Any] = {
        "cuda": module("cuda", core=core, bindings=bindings),
        "cuda.core": core,
        "cuda.bindings": bindings,
        "cuda.bindings.driver": driver,
        "tensorrt": module("tensorrt", tensorrt, **building),
    }
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in modules}
    sys.modules.update(modules)
    INSTALLED.append(gpu)
    try:
        yield gpu
    finally:
        INSTALLED.remove(gpu)
        for name in modules:
            del sys.modules[name]
        sys.modules.update(real)
    if gpu.memory.mistakes:
        raise gpu.memory.mistakes[0]


def module(name: str, source: ModuleType | None = None, **names: Any) -> ModuleType:
    made = ModuleType(name)
    made.__path__ = []  # makes it a package, without further submodules
    made.__spec__ = ModuleSpec(name, None, is_package=True)
    vars(made).update({key: vars(source)[key] for key in source.__all__} if source else {})
    vars(made).update(names)
    made.__version__ = getattr(source, "__version__", "0")  # type: ignore[attr-defined]
    return made


def packages(folder: Path) -> Path:
    """A folder with packages `tensorrt` and `cuda.core` that are the stand-in, for child processes."""
    here = "animate_rt.tests.standin"
    for name, sources in {"tensorrt": ("tensorrt", "builder"), "cuda/core": ("cuda_core",)}.items():
        (folder / name).mkdir(parents=True)
        lines = [
            f"from {here}.streams import GPU, INSTALLED",
            f"from {here}.tensorrt import __version__",
            *(f"from {here}.{source} import *" for source in sources),
            "INSTALLED or INSTALLED.append(GPU())",
        ]
        (folder / name / "__init__.py").write_text("\n".join(lines))
    return folder


@contextmanager
def caught(gpu: GPU, match: str) -> Iterator[None]:
    """Expect a mistake whose message matches, and forget it."""
    with pytest.raises(StandInError, match=match):
        yield
    gpu.memory.mistakes.clear()


def tensorrt_bundle(source: Path, target: Path, capability: str = "SM90", opened: Any = open_bundle) -> Path:
    """Convert an OpenVINO float32 bundle to one of stand-in TensorRT plans, which compute the same bits.

    `opened` opens bundles of its kind.
    """

    copytree(source, target)
    manifest = opened(source).manifest
    (target / MANIFEST).unlink()
    for graph in manifest.graphs:
        content = tensorrt.plan(source / "graphs" / f"{graph}.onnx", capability)
        (target / "engines" / f"{graph}.plan").write_bytes(content)
        (target / "engines" / f"{graph}.xml").unlink()
    made = replace(
        manifest,
        backend="tensorrt",
        backend_version=f"tensorrt {tensorrt.__version__}",
        compute_capabilities=(capability,),
        memory={},
    )
    seal(target, made)
    return target
