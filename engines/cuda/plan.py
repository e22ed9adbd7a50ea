"""TensorRT plans from ONNX graphs, through either of its two packages.

`tensorrt` builds for the GPU at hand. `tensorrt_rtx` has the same API and builds ahead of time for named
compute capabilities, which takes no GPU. Networks are strongly typed: the graph's own types are the
precision.

Builders crash, run out of memory and cannot be interrupted, so each plan is compiled in a process of its own.
It tells of its progress on standard output, logs to standard error, and ends when its standard input does:
when we want it to, or are gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import IO, Any

from ...atomic import atomic
from ...errors import BuildError, ConfigError, DeviceError
from ..contract import Memory
from .plan_cache import TimingCache
from .tensorrt import provider, version

COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")  # of a plan of tensorrt_rtx; one plan serves all
RECIPE = 1  # raised whenever `compile_plan` comes to set anything else: part of a plan's key
LOG_LINES = 5
HEARTBEAT_S = 0.2  # between calls of `progress` while TensorRT says nothing, which it does for minutes
GRACE_S = 1.0  # for TensorRT to stop at the end of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What may be chosen about plans.

    compute_capabilities: of the GPUs that are to run them, like "SM89"; where none are named, those of
        COMPUTE_CAPABILITIES with `tensorrt_rtx`. `tensorrt` knows only the GPU at hand.
    optimization_level: 0 to 5, how long `tensorrt` searches for faster kernels; 3 is its own default, 4 and 5
        compile a kernel for every layer. `tensorrt_rtx` chooses on the GPU that runs the plan instead.
    workspace_bytes: device memory that a plan may use while it runs, apart from weights, inputs and outputs.
        None is no limit; with less than it needs there is no plan.
    """

    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int = 3
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization level: expected 0 to 5, found {self.optimization_level}")
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise ConfigError(f"workspace: expected more than nothing, found {self.workspace_bytes} bytes")


DEFAULT = PlanOptions()


def compute_capabilities(options: PlanOptions = DEFAULT) -> tuple[str, ...]:
    """What plans are built for, by the names of TensorRT.

    Raises ConfigError where the provider cannot build for one of them, DeviceError where it needs a GPU and
    finds none.
    """
    trt, asked = provider(), options.compute_capabilities
    if trt.__name__ == "tensorrt_rtx":
        known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(
                f"compute capability: expected any of {', '.join(known)}, found {', '.join(unknown)}"
            )
        return tuple(dict.fromkeys(asked)) or COMPUTE_CAPABILITIES
    found = gpu()[0]
    if asked and asked != (found,):
        raise ConfigError(
            f"compute capability: expected none, as tensorrt builds for the GPU at hand ({found}), "
            f"found {', '.join(asked)}; pip install 'animate-rt[tensorrt-rtx]' to build for others"
        )
    return (found,)


def plan_key(graph_digest: str, options: PlanOptions = DEFAULT) -> dict[str, Any]:
    """Everything a plan depends on. `graph_digest` stands for the graph and its weights, and so for its
    precision too."""
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
    """Compile one ONNX file into a plan file and return the device memory it will take, if TensorRT says.

    `progress` is called several times a second with what TensorRT does; what it raises stops the build.

    Raises BuildError with the end of TensorRT's log, ConfigError and DeviceError as `compute_capabilities`.
    """
    described = dataclasses.asdict(options) | {"compute_capabilities": compute_capabilities(options)}
    pipe = subprocess.PIPE
    told: dict[str, Any] = {}
    with atomic(plan) as temporary, tempfile.TemporaryFile("w+", errors="replace") as log:
        job = {"graph": os.fspath(graph), "plan": os.fspath(temporary), "options": described}
        # -P: what lies in the current folder is not to be taken for a package.
        command = [sys.executable, "-P", "-m", __name__, json.dumps(job)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as process:
            reader = Reader(process)
            try:
                while reader.update(told):
                    progress(told.get("progress", ""))
                process.wait()
            finally:
                stop(process)
                reader.join()
        if process.returncode != 0:
            log.seek(0)
            raise BuildError(f"{graph.name}: {why(process.returncode, log)}")
    return Memory(**told["memory"]) if "memory" in told else None


class Reader(Thread):
    """Reads what the other process tells: on Windows a pipe cannot be waited for with a time limit."""

    def __init__(self, process: subprocess.Popen[str]):
        super().__init__(daemon=True)
        assert process.stdout is not None
        self.pipe = process.stdout
        self.lines: SimpleQueue[str] = SimpleQueue()
        self.start()

    def run(self) -> None:
        for line in self.pipe:
            self.lines.put(line)
        self.lines.put("")

    def update(self, told: dict[str, Any]) -> bool:
        """Wait for news, but not for long; False once there will be none."""
        try:
            line = self.lines.get(timeout=HEARTBEAT_S)
        except Empty:
            return True
        if line:
            told.update(json.loads(line))
        return bool(line)


def stop(process: subprocess.Popen[str]) -> None:
    """See that the process has ended: asked first, so that TensorRT gives back the GPU, then forced."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def why(status: int, log: IO[str]) -> str:
    """One line about a process that failed."""
    said = " | ".join(" ".join(line.split()) for line in log.read().splitlines()[-LOG_LINES:])
    if status == -getattr(signal, "SIGKILL", 9):
        return (
            f"TensorRT was killed, most likely for want of memory; free some and build again. {said}".strip()
        )
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"TensorRT ended with {how}: {said or 'it gave no reason'}"


def gpu() -> tuple[str, str]:
    """Compute capability, like "SM90", and name of the first visible GPU."""
    try:
        from cuda.core import Device

        device = Device(0)
        return "SM{}{}".format(*device.compute_capability), device.name
    except Exception as error:  # cuda.core has many: no driver, no GPU, too old a driver, not installed
        raise DeviceError(
            f"backend tensorrt: expected an NVIDIA GPU to build for, found none ({error}); "
            "pip install 'animate-rt[tensorrt-rtx]' to build without one"
        ) from error


def compile_plan(
    graph: Path, plan: Path, options: PlanOptions, tell: Callable[[dict[str, Any]], None]
) -> None:
    """What the other process does."""
    trt = provider()
    stopping = Event()
    Thread(target=watch, args=(stopping,), daemon=True).start()
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    # Version 11 has nothing else; 10 has to be told.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    tell({"progress": "reading the graph"})
    if not parser.parse_from_file(os.fspath(graph)):
        sys.exit(1)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # what is float32 in a graph is so for a reason
    config.builder_optimization_level = options.optimization_level
    config.progress_monitor = monitor = new_monitor(trt, tell, stopping)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    timings = None
    if trt.__name__ == "tensorrt_rtx":  # it times nothing, and calls about its timing cache do nothing
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
        tell({"memory": logger.memory})
    del monitor  # TensorRT does not keep it alive


def watch(stopping: Event) -> None:
    """End this process when its standard input does, gently at first."""
    os.read(0, 1)  # not through sys.stdin, whose lock a thread may not hold when Python ends
    stopping.set()
    time.sleep(GRACE_S)
    os._exit(1)


def new_logger(trt: Any) -> Any:
    """A logger that writes errors to standard error and notes what memory the plan takes."""
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


def new_monitor(trt: Any, tell: Callable[[dict[str, Any]], None], stopping: Event) -> Any:
    """A progress monitor that tells of each step and ends the build once `stopping` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.num_steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, num_steps: int) -> None:
            self.num_steps[phase] = num_steps
            self.step_complete(phase, -1)

        def step_complete(self, phase: str, step: int) -> bool:
            tell({"progress": f"{phase.lower()} {step + 1}/{self.num_steps.get(phase, '?')}"})
            return not stopping.is_set()

        def phase_finish(self, phase: str) -> None:
            self.num_steps.pop(phase, None)

    return Monitor()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the parent, which decides
    job = json.loads(sys.argv[1])
    # Whatever else is printed, by native code too, is log.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    telling = Lock()  # TensorRT calls from several threads

    def tell(line: dict[str, Any]) -> None:
        with telling, suppress(BrokenPipeError):  # nobody listens any more: `watch` will end this
            report.write(json.dumps(line) + "\n")
            report.flush()

    capabilities = tuple(job["options"].pop("compute_capabilities"))
    options = PlanOptions(**job["options"], compute_capabilities=capabilities)
    compile_plan(Path(job["graph"]), Path(job["plan"]), options, tell)


if __name__ == "__main__":
    main()
