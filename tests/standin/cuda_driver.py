"""The stand-in for `cuda.bindings.driver`: functions that return a status and their results."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import Any

from .cuda_core import POOL, Handle
from .memory import Access
from .streams import GPU, INSTALLED, Mark, Task

__all__ = [
    "CUresult",
    "CUstreamCaptureMode",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiate",
    "cuGraphLaunch",
    "cuMemGetInfo",
    "cuMemPoolTrimTo",
    "cuMemcpyAsync",
    "cuStreamBeginCapture",
    "cuStreamEndCapture",
]

CUresult = IntEnum(
    "CUresult",
    {
        "CUDA_SUCCESS": 0,
        "CUDA_ERROR_OUT_OF_MEMORY": 2,
        "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901,
    },
)
CUstreamCaptureMode = IntEnum(
    "CUstreamCaptureMode",
    {
        "CU_STREAM_CAPTURE_MODE_GLOBAL": 0,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1,
        "CU_STREAM_CAPTURE_MODE_RELAXED": 2,
    },
)


def driver_call(*, anywhere: bool = False, unsafe: bool = False, results: int = 0) -> Callable[[Any], Any]:
    """Like `api`, but a fault is returned as a CUresult, with None for each of the `results`."""

    def decorate(function: Any) -> Any:
        @wraps(function)
        def call(*arguments: Any) -> tuple[Any, ...]:
            gpu, name = INSTALLED[0], function.__name__
            with gpu.lock:
                gpu.enter(name, anywhere=anywhere, unsafe=unsafe)
                if name in gpu.faults:
                    return gpu.faults[name], *[None] * results
                status, *values = function(gpu, *arguments)
                return CUresult(status), *values

        return call

    return decorate


class Graph:
    """A captured graph, or its executable. Launches of the same executable run one after another."""

    def __init__(self, gpu: GPU, tasks: list[Task]):
        self.gpu = gpu
        self.tasks = tasks
        self.last: Mark | None = None
        self.destroyed = False

    def destroy(self) -> None:
        if self.destroyed:
            self.gpu.refuse("a graph is destroyed twice")
        self.destroyed = True


@driver_call(results=2)
def cuMemGetInfo(gpu: GPU) -> tuple[Any, ...]:
    total = gpu.memory.total_bytes
    return 0, total - gpu.memory.reserved_bytes, total


@driver_call(unsafe=True)
def cuMemPoolTrimTo(gpu: GPU, pool: Handle, min_bytes_to_keep: int) -> tuple[Any, ...]:
    if int(pool) != POOL:
        gpu.refuse("the memory pool to trim is not the device's")
    gpu.memory.reserved_bytes = max(gpu.memory.used_bytes, min(gpu.memory.reserved_bytes, min_bytes_to_keep))
    return (0,)


@driver_call()
def cuMemcpyAsync(gpu: GPU, dst: int, src: int, num_bytes: int, stream: Any) -> tuple[Any, ...]:
    """The addresses decide whether source and target are device or host memory."""
    if dst < src + num_bytes and src < dst + num_bytes:
        gpu.refuse("a copy onto itself")

    def run() -> None:
        view = gpu.memory.view
        view(dst, num_bytes, "a copy's target")[:] = view(src, num_bytes, "a copy's source")

    accesses = (Access(src, src + num_bytes, write=False), Access(dst, dst + num_bytes, write=True))
    gpu.enqueue(gpu.queue(int(stream)), Task("a copy", run, accesses))
    return (0,)


@driver_call(unsafe=True)
def cuStreamBeginCapture(gpu: GPU, stream: Any, mode: int) -> tuple[Any, ...]:
    if mode != CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL:
        gpu.refuse("a capture mode that involves other threads' work: expected the thread-local one")
    gpu.begin_capture(gpu.queue(int(stream)))
    return (0,)


@driver_call(results=1)
def cuStreamEndCapture(gpu: GPU, stream: Any) -> tuple[Any, ...]:
    capture = gpu.end_capture(gpu.queue(int(stream)))
    if capture.valid:
        return 0, Graph(gpu, capture.tasks)
    return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None


@driver_call(unsafe=True, results=1)
def cuGraphInstantiate(gpu: GPU, graph: Graph, flags: int) -> tuple[Any, ...]:
    if graph.destroyed or flags != 0:
        gpu.refuse("instantiation of a graph with flags, or of a graph that has been destroyed")
    return 0, Graph(gpu, graph.tasks)


@driver_call(anywhere=True)
def cuGraphDestroy(_gpu: GPU, graph: Graph) -> tuple[Any, ...]:
    graph.destroy()
    return (0,)


@driver_call()
def cuGraphLaunch(gpu: GPU, graph: Graph, stream: Any) -> tuple[Any, ...]:
    """Replay the captured work, with the addresses of the capture."""
    if graph.destroyed:
        gpu.refuse("launch of a graph that has been destroyed")
    queue = gpu.queue(int(stream))
    if graph.last is not None:
        gpu.enqueue(queue, Task("a wait", after=graph.last))
    tasks = graph.tasks
    accesses = [Access(a.start, a.stop, a.write) for task in tasks for a in task.accesses]
    graph.last = gpu.enqueue(queue, Task("a graph", lambda: [task.run() for task in tasks], accesses))
    return (0,)


def cuGraphExecDestroy(graph: Graph) -> tuple[Any, ...]:
    """Allowed while the graph runs: it is freed afterwards. Finalizers call this in any thread."""
    graph.destroy()
    return (CUresult(0),)
