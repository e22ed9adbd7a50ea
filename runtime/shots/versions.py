"""Versions of what decides the bytes of a result, besides its inputs and options."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata

OWN = metadata.version("animate-rt")  # now, as an update on disk does not change the code that runs
# Modules of these packages, which read the poses, draw the noise, resize, and encode.
MODULES = {"av": "av", "numpy": "numpy", "pillow": "PIL"}
BACKENDS = {"openvino": "openvino"}  # of other backends, the bundle has the version: they refuse another


def versions(backend: str, *, loaded: bool) -> dict[str, str | None]:
    """Return the versions by package, None for one that is not installed.

    `loaded` imports the packages first: a later update of the installed files then has no effect on them.
    """
    if loaded:
        for module in MODULES.values():
            importlib.import_module(module)
    packages = MODULES | ({backend: BACKENDS[backend]} if backend in BACKENDS else {})
    return {"animate-rt": OWN} | {package: version(package, name) for package, name in packages.items()}


def version(package: str, module: str) -> str | None:
    """The version of the module that is loaded, or else of the package that is installed."""
    found = getattr(sys.modules.get(module), "__version__", None)
    try:
        return str(found or metadata.version(package)).partition("-")[0]  # without OpenVINO's build number
    except metadata.PackageNotFoundError:
        return None
