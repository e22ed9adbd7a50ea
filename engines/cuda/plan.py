"""Compiles ONNX graphs to TensorRT plans, with either of TensorRT's two packages.

`tensorrt` builds for the installed GPU. `tensorrt_rtx` has the same API and builds ahead of time for given
compute capabilities, without a GPU. Networks are strongly typed: the types in the graph set the precision.

Each plan is compiled in a process of its own (build_process.py), as a builder may crash or run out of memory
and cannot be interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ...atomic import atomic
from ...errors import ConfigError, DeviceError
from ...text import message_of, one_line, quoted
from ..build_process import LINE, Report, run_process, serve
from ..contract import Memory
from .plan_cache import TimingCache
from .tensorrt import provider, version

COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")  # default of tensorrt_rtx; one plan serves all
RECIPE = 1  # part of a plan's cache key; increment it when the settings in `compile_plan` change


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Options for building plans.

    compute_capabilities: of the GPUs that will run the plans, such as "SM89". If empty, `tensorrt_rtx` uses
        COMPUTE_CAPABILITIES. `tensorrt` builds for the installed GPU only.
    optimization_level: 0 to 5, how long `tensorrt` searches for faster kernels; 3 is TensorRT's default, 4
        and 5 compile a kernel for every layer. `tensorrt_rtx` chooses kernels on the GPU that runs the plan.
    workspace_bytes: limit of the device memory that a plan uses while it runs, besides weights, inputs and
        outputs. None is no limit. The build fails if the plan needs more.
    """

    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int = 3
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        level, workspace = self.optimization_level, self.workspace_bytes
        if type(level) is not int or not 0 <= level <= 5:
            raise ConfigError(f"optimization level: expected 0 to 5, found {quoted(level)}")
        if workspace is not None and (type(workspace) is not int or workspace <= 0):
            raise ConfigError(f"workspace: expected at least 1 byte, found {quoted(workspace)}")


DEFAULT = PlanOptions()


def compute_capabilities(options: PlanOptions = DEFAULT) -> tuple[str, ...]:
    """The compute capabilities to build plans for, in TensorRT's notation.

    Raises ConfigError if the provider cannot build for one of them, DeviceError if it needs a GPU and finds
    none.
    """
    trt, asked = provider(), tuple(dict.fromkeys(options.compute_capabilities))
    if trt.__name__ == "tensorrt_rtx":
        known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(
                f"compute capability: expected any of {', '.join(known)}, "
                f"found {', '.join(map(quoted, unknown))}"
            )
        return asked or COMPUTE_CAPABILITIES
    found = gpu()[0]
    if asked and asked != (found,):
        raise ConfigError(
            f"compute capability: expected none, as tensorrt builds for the installed GPU ({found}), "
            f"found {', '.join(map(quoted, asked))}; pip install 'animate-rt[tensorrt-rtx]' to build for "
            "others"
        )
    return (found,)


def plan_key(graph_digest: str, options: PlanOptions = DEFAULT) -> dict[str, Any]:
    """Everything that a plan depends on, as its cache key.

    `graph_digest` covers the graph and its weights, and so its precision.
    """
    rtx = provider().__name__ == "tensorrt_rtx"
    return {
        "graph": graph_digest,
        "version": version(),
        "device": "" if rtx else gpu()[1],
        "compute_capabilities": compute_capabilities(options),
        "optimization_level": options.optimization_level,
        "workspace_bytes": options.workspace_bytes,
        "recipe": RECIPE,
    }


def build_plan(
    graph: Path,
    plan: Path,
    options: PlanOptions = DEFAULT,
    progress: Callable[[str], None] = lambda _what: None,
) -> Memory | None:
    """Compile one ONNX file into a plan file. Returns the device memory it will need, if TensorRT reports it.

    `progress` is called several times a second with TensorRT's current step; an exception from it stops the
    build. Raises BuildError with the end of TensorRT's log, ConfigError and DeviceError as
    `compute_capabilities`.
    """
    described = dataclasses.asdict(options) | {"compute_capabilities": compute_capabilities(options)}
    with atomic(plan) as temporary:
        job = {"graph": os.fspath(graph), "plan": os.fspath(temporary), "options": described}
        reported = run_process(__name__, job, f"{graph.name}: TensorRT", progress)
    return Memory(**reported["memory"]) if "memory" in reported else None


def gpu() -> tuple[str, str]:
    """Compute capability, such as "SM90", and name of the first visible GPU. Raises DeviceError."""
    try:
        from cuda.core import Device

        device = Device(0)
        return "SM{}{}".format(*device.compute_capability), device.name
    except Exception as error:  # of many classes: no driver, no GPU, too old a driver, not installed
        raise DeviceError(
            "backend tensorrt: expected an NVIDIA GPU to build for, found none "
            f"({one_line(message_of(error), LINE)}); "
            "pip install 'animate-rt[tensorrt-rtx]' to build without one"
        ) from error


def compile_plan(graph: Path, plan: Path, options: PlanOptions, report: Report, stopping: Event) -> None:
    """Compile the plan, in the build process. `report` sends progress and memory to the parent."""
    trt = provider()
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    # Networks of TensorRT 11 are always strongly typed; 10 needs the flag.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    report({"progress": "reading the graph"})
    if not parser.parse_from_file(os.fspath(graph)):
        sys.exit(1)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # the float32 parts of a graph need full precision
    config.builder_optimization_level = options.optimization_level
    config.progress_monitor = monitor = new_monitor(trt, report, stopping)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    timings = None
    if trt.__name__ == "tensorrt_rtx":  # it does not time kernels, and ignores a timing cache
        config.num_compute_capabilities = len(options.compute_capabilities)
        for i, name in enumerate(options.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    else:
        timings = TimingCache(config, version(), gpu()[1])
    built = builder.build_serialized_network(network, config)
    if built is None:
        sys.exit(1)
    if timings:
        timings.write()
    plan.write_bytes(memoryview(built))
    if logger.memory.keys() == {"weights", "activations"}:
        report({"memory": logger.memory})
    del monitor  # TensorRT does not keep it alive


def new_logger(trt: Any) -> Any:
    """A logger that writes errors to standard error and records the memory that the plan needs."""
    totals = {
        "weights": re.compile(r"Total Weights Memory: (\d+) bytes"),
        "activations": re.compile(r"Total Activation Memory: (\d+) bytes"),
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.memory: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (self.Severity.ERROR, self.Severity.INTERNAL_ERROR):
                sys.stderr.write(f"{message}\n")
            elif severity == self.Severity.INFO:
                for name, total in totals.items():
                    if found := total.search(message):
                        self.memory[name] = int(found[1])

    return Log()


def new_monitor(trt: Any, report: Report, stopping: Event) -> Any:
    """A progress monitor that reports each step and ends the build once `stopping` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.num_steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, num_steps: int) -> None:
            self.num_steps[phase] = num_steps
            self.step_complete(phase, -1)

        def step_complete(self, phase: str, step: int) -> bool:
            report({"progress": f"{phase.lower()} {step + 1}/{self.num_steps.get(phase, '?')}"})
            return not stopping.is_set()

        def phase_finish(self, phase: str) -> None:
            self.num_steps.pop(phase, None)

    return Monitor()


def work(job: dict[str, Any], report: Report, stopping: Event) -> None:
    capabilities = tuple(job["options"].pop("compute_capabilities"))
    options = PlanOptions(**job["options"], compute_capabilities=capabilities)
    compile_plan(Path(job["graph"]), Path(job["plan"]), options, report, stopping)


if __name__ == "__main__":
    serve(work)
