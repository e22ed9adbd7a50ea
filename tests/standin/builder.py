"""The building half of the stand-in for `tensorrt`: from an ONNX file to a plan that names it.

It calls a progress monitor as TensorRT does, can be stopped by it, and takes and gives a timing cache.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from .streams import INSTALLED
from .tensorrt import ILogger, plan

__all__ = [
    "Builder",
    "BuilderFlag",
    "IBuilderConfig",
    "INetworkDefinition",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
]

PHASES = {"Building Engine": 2, "Tactic Timing": 40}  # steps of each
NEEDED_BYTES = 1000  # of workspace, by every plan
CACHE = b"timings of a stand-in GPU:"

BuilderFlag = Enum("BuilderFlag", ["TF32"])
MemoryPoolType = Enum("MemoryPoolType", ["WORKSPACE"])


class NetworkDefinitionCreationFlag(int, Enum):
    STRONGLY_TYPED = 1


class INetworkDefinition:
    def __init__(self, flags: int):
        self.flags = flags
        self.graph: Path | None = None


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger):
        self.network, self.logger = network, logger

    def parse_from_file(self, model: str) -> bool:
        path = Path(model)
        if not path.is_file() or not path.stat().st_size:
            self.logger.log(ILogger.Severity.ERROR, f"Failed to parse the ONNX model from {path.name}")
            return False
        self.network.graph = path
        return True


class ITimingCache:
    """Entries are names of graphs."""

    def __init__(self, entries: set[str]):
        self.entries = entries

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:  # noqa: ARG002
        self.entries |= input_cache.entries
        return True

    def serialize(self) -> bytes:
        return CACHE + ",".join(sorted(self.entries)).encode()


class IBuilderConfig:
    builder_optimization_level = 3
    progress_monitor: Any = None

    def __init__(self, logger: ILogger):
        self.logger = logger
        self.flags = {BuilderFlag.TF32}
        self.limit: int | None = None
        self.timings: ITimingCache | None = None

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self.limit = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        content = serialized_timing_cache
        valid = content.startswith(CACHE)
        cache = ITimingCache(set(content.removeprefix(CACHE).decode().split(",")) - {""} if valid else set())
        cache.foreign = bool(content) and not valid  # type: ignore[attr-defined]
        return cache

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if getattr(cache, "foreign", False) and not ignore_mismatch:
            return False
        self.timings = cache
        return True


class Builder:
    def __init__(self, logger: ILogger):
        if not isinstance(logger, ILogger) or not logger._initialized:
            raise TypeError("expected an ILogger whose __init__ has been called")
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.logger)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        severity = ILogger.Severity
        assert network.graph is not None
        assert BuilderFlag.TF32 not in config.flags, "float32 must not be computed as TF32"
        if not network.flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            self.logger.log(severity.ERROR, "the network is not strongly typed")
            return None
        if config.limit is not None and config.limit < NEEDED_BYTES:
            self.logger.log(severity.ERROR, "Error Code 10: Could not find any implementation")
            return None
        if not self._show(config):
            self.logger.log(severity.ERROR, "the build was stopped by its progress monitor")
            return None
        if config.timings is not None:
            known = network.graph.name in config.timings.entries
            self.logger.log(severity.INFO, f"{'known' if known else 'new'} timings of {network.graph.name}")
            config.timings.entries.add(network.graph.name)
        self.logger.log(severity.INFO, "Total Weights Memory: 2000 bytes")
        self.logger.log(severity.INFO, f"Total Activation Memory: {NEEDED_BYTES} bytes")
        return plan(network.graph, INSTALLED[0].capability)

    def _show(self, config: IBuilderConfig) -> bool:
        """Whether the build may go on after all steps of all phases."""
        monitor, parent = config.progress_monitor, None
        if monitor is None:
            return True
        for phase, count in PHASES.items():
            monitor.phase_start(phase, parent, count)
            for step in range(count):
                if not monitor.step_complete(phase, step):
                    return False
            monitor.phase_finish(phase)
            parent = phase
        return True
