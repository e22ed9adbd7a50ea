"""Inputs and outputs of a model compiled by OpenVINO, as a contract states them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ...errors import BundleMismatch
from ...text import escaped, quoted
from ..bundle import SealedBundle
from ..contract import DType, TensorSpec


def specs_of(ports: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a compiled model, which have static shapes."""
    return tuple(
        TensorSpec(port.any_name, cast("DType", str(port.element_type.to_dtype())), tuple(port.shape))
        for port in ports
    )


def check_tensors(bundle: SealedBundle, graph: str, compiled: Any) -> None:
    """Raise BundleMismatch unless the graph's inputs and outputs are those of the contract."""
    contract = bundle.manifest.graphs[graph]
    expected = {
        spec.name: f"{kind} {spec.dtype} [{','.join(map(str, spec.shape))}]"
        for kind, specs in (("input", contract.inputs), ("output", contract.outputs))
        for spec in specs
    }
    found = {
        next(
            iter(port.names & expected.keys()), port.any_name
        ): f"{kind} {port.element_type.to_dtype()} {port.partial_shape}"
        for kind, ports in (("input", compiled.inputs), ("output", compiled.outputs))
        for port in ports
    }
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BundleMismatch(
                f"{escaped(str(bundle.path))}: graph {graph}: {quoted(name)}: expected "
                f"{expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}; "
                f"build it again: {bundle.manifest.rebuild_command}"
            )
