"""Inputs and outputs of a loaded engine, compared with those of its contract."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import BundleMismatch
from ..text import escaped, quoted
from .bundle import SealedBundle


def check_tensors(bundle: SealedBundle, graph: str, found: Mapping[str, str]) -> None:
    """Raise BundleMismatch unless an engine's inputs and outputs are those of the contract.

    `found` describes each by its name, such as "input float32 (1, 77)".
    """
    contract = bundle.manifest.graphs[graph]
    expected = {
        spec.name: f"{kind} {spec.dtype} {spec.shape}"
        for kind, specs in (("input", contract.inputs), ("output", contract.outputs))
        for spec in specs
    }
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BundleMismatch(
                f"{escaped(str(bundle.path))}: graph {graph}: {quoted(name)}: expected "
                f"{expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}; "
                f"build it again: {bundle.manifest.rebuild_command}"
            )
