"""What a bundle's manifest says: contents that all bundles have, and a bundle for clips."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..text import quoted
from .contract import Contract, Memory, ShapeBucket, contracts
from .files import File
from .model import ModelConfig
from .precision import PRECISIONS, Backend, Precision

SCHEMA = 2
WEIGHTS = "graphs/weights.bin"  # as WEIGHTS of export/weight_file.py
MAX_TEXT, MAX_TEXTS = 200, 64  # characters of a text in the manifest, and texts in one field
NAMED = 3  # files or graphs in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents(ABC):
    """What every bundle's manifest says. `seal` fills in `files` and adds the digest to the JSON document.

    Raises ConfigError for texts that are long or not printable, and for the memory of only some graphs.
    """

    schema: int = SCHEMA
    backend: Backend
    backend_version: str
    compute_capabilities: tuple[str, ...]
    # Of each engine, by graph. Empty if TensorRT's builder did not report it for all plans.
    memory: dict[str, Memory] = dataclasses.field(default_factory=dict)
    precision: Precision
    weights: dict[str, str]  # SHA-256 of each file of weights that the bundle was built from
    graphs: dict[str, Contract]
    files: dict[str, File] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_texts((self.backend_version,), self.compute_capabilities, self.weights, self.weights.values())
        if self.memory and self.memory.keys() != self.graphs.keys():
            raise ConfigError(
                f"manifest: expected the memory of all {len(self.graphs)} graphs or of none, "
                f"found that of {len(self.memory)}: {named(self.memory)}"
            )

    @property
    def used_files(self) -> set[str]:
        """Names of the files that the bundle must have."""
        graphs = {f"graphs/{graph}.onnx" for graph in self.graphs}
        return {WEIGHTS, *graphs, *map(self.engine, self.graphs)}

    def engine(self, graph: str) -> str:
        """Name of the file from which the backend loads a graph."""
        return f"engines/{graph}.{'plan' if self.backend == 'tensorrt' else 'xml'}"

    @abstractmethod
    def contracts(self) -> dict[str, Contract]:
        """What `graphs` must be in this version, in the order of use. Raises ConfigError."""

    @property
    @abstractmethod
    def rebuild_command(self) -> str:
        """The command that builds such a bundle again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Contents):
    """Description of a bundle for clips."""

    model: ModelConfig
    bucket: ShapeBucket
    feature_cache: bool = False  # whether it has the graphs for it; manifests before it was added lack it
    # In precision int8: SHA-256 of each calibration clip, by name.
    calibration: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super(Manifest, self).__post_init__()
        check_texts(self.calibration, self.calibration.values())
        if bool(self.calibration) != (self.precision == "int8"):
            raise ConfigError(
                f"manifest: expected calibration clips in precision int8 and in no other, found "
                f"{len(self.calibration)} clips and precision {self.precision}"
            )
        if self.precision == "int8" and self.backend != "openvino":
            raise ConfigError(f"manifest: expected backend openvino in precision int8, found {self.backend}")

    def contracts(self) -> dict[str, Contract]:
        dtype = PRECISIONS[self.precision].graph_dtype
        return contracts(self.model, self.bucket, dtype, feature_cache=self.feature_cache)

    @property
    def rebuild_command(self) -> str:
        bucket = self.bucket
        return (
            f"animate-rt build CHECKPOINT BUNDLE --width {bucket.width} --height {bucket.height} "
            f"--window {bucket.window} --backend {self.backend} --precision {self.precision}"
            f"{' --feature-cache' if self.feature_cache else ''}"
            f"{' --calibration CLIP...' if self.calibration else ''}"
        )


def check_texts(*groups: Collection[str]) -> None:
    """Raise ConfigError for texts that are long or not printable, and for many of them."""
    for group in groups:
        if len(group) > MAX_TEXTS:
            raise ConfigError(f"manifest: expected at most {MAX_TEXTS} texts, found {len(group)}")
        for text in group:
            if len(text) > MAX_TEXT or not text.isprintable():
                raise ConfigError(
                    f"manifest: expected up to {MAX_TEXT} printable characters, found {quoted(text)}"
                )


def named(names: Any) -> str:
    """Some names for a message."""
    first = sorted(names)[:NAMED]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(quoted, first)) + more
