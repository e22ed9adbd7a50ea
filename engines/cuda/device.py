"""An NVIDIA GPU as a device: streams, events and memory are CUDA's, through cuda.core.

CUDA errors are sticky: after one, every call fails until the process ends. So the `needs` of a wait is
ignored: every later wait raises.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from ...errors import AnimateError, DeviceError, OutOfMemory
from ...text import message_of, one_line
from ..contract import ITEM_BYTES, DType
from ..device import Buffer, Event, Update

LOG = logging.getLogger("animate_rt.cuda")
BLOCK = 256  # threads

# The same as `apply` in cpu/device.py. Compiled without contraction: a fused multiply-add would not round the
# product.
UPDATE = """
extern "C" __global__ void update(float* latents, float* total, const float* prediction, long long count,
                                  bool first, bool last, float a, float b,
                                  const float* earlier, float factor, const float* earliest, float other,
                                  float* estimate, float of_latents, float of_sum) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float sum = first ? prediction[i] : total[i] + prediction[i];
    if (last) {
        float next = a * latents[i] + b * sum;
        if (earlier) next = next + factor * earlier[i];
        if (earliest) next = next + other * earliest[i];
        if (estimate) estimate[i] = of_latents * latents[i] + of_sum * sum;  // may be earlier or earliest
        latents[i] = next;
    }
    else total[i] = sum;
}
"""


class CUDADevice:
    """The first GPU that CUDA lists; the environment variable CUDA_VISIBLE_DEVICES selects it.

    The device keeps all memory until `release` or `close`, so none is freed while a stream may still use it.
    """

    def __init__(self, *, timing: bool) -> None:
        try:
            from cuda.core import Device, EventOptions
        except ImportError:
            raise DeviceError(
                "backend tensorrt: expected the package cuda-core, found none; "
                "pip install 'animate-rt[tensorrt]'"
            ) from None
        with cuda_errors("expected an NVIDIA GPU and its driver, found none that works"):
            self.device = Device(0)
            self.device.set_current()
        with cuda_errors("cannot compile for the GPU; pip install 'animate-rt[tensorrt]' brings NVRTC"):
            self.kernel = compile_update()
        # Waiting threads sleep: spinning would take a core from the threads that read poses or write videos.
        self.event_options = EventOptions(timing_enabled=timing, blocking_sync=True)
        self.memory: dict[int, Any] = {}  # allocations by address; added and removed in any thread
        self.closed = False
        self.allocations = self.stream("allocations")
        self.origin = self.allocations.record()
        self.origin.synchronize()  # times of events are relative to it

    @property
    def description(self) -> str:
        return str(self.device.name)

    @property
    def compute_capability(self) -> str:
        """In TensorRT's notation, such as "SM89"."""
        return f"SM{self.device.arch}"

    def activate(self) -> None:
        from cuda.core import Device

        with cuda_errors("cannot use the GPU in this thread"):
            Device(0).set_current()  # each thread has its own object for the same GPU

    def stream(self, name: str) -> CUDAStream:
        return CUDAStream(name, self)

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        def allocate(num_bytes: int) -> Any:
            stream = self.allocations.stream
            memory = self.device.allocate(num_bytes, stream=stream)
            stream.sync()  # the allocation is work on that stream; after it, every stream may use the memory
            return memory

        memory = self._allocate(allocate, dtype, shape)
        return Buffer(dtype, shape, int(memory.handle), memory=memory)

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        from cuda.core import LegacyPinnedMemoryResource

        memory = self._allocate(LegacyPinnedMemoryResource().allocate, dtype, shape)
        address = int(memory.handle)
        content = (ctypes.c_uint8 * memory.size).from_address(address)
        array = np.frombuffer(content, np.dtype(dtype)).reshape(shape)
        return Buffer(dtype, shape, address, array=array, memory=memory, of_host=True)

    def release(self, *buffers: Buffer) -> None:
        with cuda_errors("cannot free memory"):
            self._free([self.memory.pop(buffer.address, None) for buffer in buffers])

    def trim(self) -> None:
        with cuda_errors("cannot free memory"):
            if (pool := self._memory_pool()) is not None:
                call_driver("cuMemPoolTrimTo", pool.handle, 0)

    def free_bytes(self) -> int:
        with cuda_errors("cannot ask the GPU for its free memory"):
            free, _total = call_driver("cuMemGetInfo")
            if (pool := self._memory_pool()) is not None:
                free += pool.attributes.reserved_mem_current - pool.attributes.used_mem_current
        return int(free)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        memory, self.memory = self.memory, {}
        try:
            self.device.sync()  # running work still uses the memory
            self._free(memory.values())
            self.trim()
        except Exception as error:  # an error of earlier work, already raised to whoever waited for it
            LOG.warning("the GPU was closed after an error: %s", one_line(message_of(error)))

    def _free(self, memory: Iterable[Any]) -> None:
        """Free allocations; None stands for one that `close` has freed meanwhile."""
        stream = self.allocations.stream
        for allocation in memory:
            if allocation is not None:
                allocation.close(stream)
        stream.sync()  # after this, any stream may get the memory

    def _memory_pool(self) -> Any:
        """Return the pool that `buffer` allocates from, or None if the GPU does not support pools.

        cuda.core lets it keep all memory that is freed, for this process only.
        """
        resource = self.device.memory_resource
        return resource if hasattr(resource, "attributes") else None

    def _allocate(self, allocate: Callable[[int], Any], dtype: DType, shape: tuple[int, ...]) -> Any:
        num_bytes = prod(shape) * ITEM_BYTES[dtype]
        try:
            with cuda_errors("cannot allocate memory"):
                memory = allocate(num_bytes)
        except OutOfMemory as error:
            raise OutOfMemory(
                f"no room for {dtype} {shape}: expected {num_bytes / 1e6:.0f} MB, found "
                f"{self.free_bytes() / 1e6:.0f} MB free on the GPU; use a smaller size, a smaller window or "
                "fewer frames"
            ) from error
        self.memory[int(memory.handle)] = memory
        return memory


class CUDAEvent:
    """An event that is recorded when it is created."""

    __slots__ = ("event", "stream")

    def __init__(self, stream: CUDAStream) -> None:
        self.stream = stream
        with cuda_errors(stream.name):
            self.event = stream.stream.record(options=stream.device.event_options)

    @property
    def done(self) -> bool:
        with cuda_errors(self.stream.name):
            return bool(self.event.is_done)

    @property
    def time_s(self) -> float:
        with cuda_errors(self.stream.name):
            return float(self.event - self.stream.device.origin.event) / 1e3

    def synchronize(self) -> None:
        with cuda_errors(f"{self.stream.name}: the GPU failed; start the process again"):
            self.event.sync()


class CUDAStream:
    """A CUDA stream that does not synchronise with the default stream."""

    def __init__(self, name: str, device: CUDADevice) -> None:
        self.name, self.device = name, device
        with cuda_errors(name):
            self.stream = device.device.create_stream()  # non-blocking by default
        self.handle = int(self.stream.handle)

    def copy(self, *pairs: tuple[Buffer, Buffer]) -> None:
        for target, source in pairs:
            assert target.shape == source.shape, f"{target.shape} != {source.shape}"
            assert target.dtype == source.dtype, f"{target.dtype} != {source.dtype}"
        handle = self.stream.handle
        with cuda_errors(self.name):
            for target, source in pairs:
                call_driver("cuMemcpyAsync", target.address, source.address, source.num_bytes, handle)

    def update(self, updates: Sequence[Update]) -> None:
        from cuda.core import LaunchConfig, launch

        for update in updates:
            latents, total, prediction = update.latents, update.total, update.prediction
            assert {latents.dtype, prediction.dtype} == {"float32"}
            assert latents.shape == prediction.shape
            assert total is not None or (update.first and update.last)
            assert total is None or (total.dtype, total.shape) == (latents.dtype, latents.shape)
            estimate = update.estimate
            assert all(buffer.shape == latents.shape for buffer in (*update.reads, *update.writes))
            terms = [(term.buffer.address, np.float32(term.factor)) for term in update.earlier]
            terms += [(0, np.float32(0))] * (2 - len(terms))
            count = prod(latents.shape)
            with cuda_errors(self.name):
                launch(
                    self.stream,
                    LaunchConfig(grid=-(-count // BLOCK), block=BLOCK),
                    self.device.kernel,
                    latents.address,
                    0 if total is None else total.address,
                    prediction.address,
                    np.int64(count),
                    np.bool_(update.first),
                    np.bool_(update.last),
                    np.float32(update.a),
                    np.float32(update.b),
                    *chain(*terms),
                    estimate.buffer.address if estimate else 0,
                    np.float32(estimate.a if estimate else 0),
                    np.float32(estimate.b if estimate else 0),
                )

    def record(self) -> CUDAEvent:
        return CUDAEvent(self)

    mark = record  # failures belong to the device, not to an event

    def wait(self, event: Event, *, needs: bool) -> None:  # noqa: ARG002
        assert isinstance(event, CUDAEvent)
        if event.stream is not self:  # a stream's own operations are in order already
            with cuda_errors(self.name):
                self.stream.wait(event.event)

    def check(self, check: Callable[[], None]) -> None:
        """Does nothing: what has been given to a GPU cannot be taken back."""

    def capture(self, work: Callable[[], None]) -> CUDAGraph:
        """Capture what `work` enqueues as a CUDA graph, without running it. Raises DeviceError if that fails.

        Calls the driver, as cuda.core before 1.3 crashes on a capture that fails. The mode is thread-local,
        so that other threads may allocate and wait meanwhile.
        """
        from cuda.bindings import driver

        handle, mode = self.stream.handle, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with cuda_errors(f"{self.name}: cannot capture"):
            call_driver("cuStreamBeginCapture", handle, mode)
            try:
                work()
            except BaseException:
                with suppress(Exception):  # ends the capture, and reports the same failure again
                    call_driver("cuGraphDestroy", *call_driver("cuStreamEndCapture", handle))
                raise
            (graph,) = call_driver("cuStreamEndCapture", handle)
            try:
                (executable,) = call_driver("cuGraphInstantiate", graph, 0)
            finally:
                call_driver("cuGraphDestroy", graph)
        return CUDAGraph(executable)


class CUDAGraph:
    """A captured CUDA graph. It may be deleted while it runs: CUDA frees it when it has finished."""

    def __init__(self, executable: Any) -> None:
        from cuda.bindings import driver

        self.executable = executable
        weakref.finalize(self, driver.cuGraphExecDestroy, executable).atexit = False

    def launch(self, stream: CUDAStream) -> None:
        """Launch it on the stream. The addresses it was captured with must still be valid."""
        with cuda_errors(stream.name):
            call_driver("cuGraphLaunch", self.executable, stream.stream.handle)


def compile_update() -> Any:
    """Compile the kernel of the sampler for the calling thread's GPU."""
    from cuda.core import Program, ProgramOptions

    return Program(UPDATE, "c++", ProgramOptions(fma=False)).compile("cubin").get_kernel("update")


def call_driver(function: str, *arguments: Any) -> tuple[Any, ...]:
    """Call a driver function that cuda.core does not offer. Returns its results without the status, raises
    RuntimeError if that is not success."""
    from cuda.bindings import driver

    status, *values = getattr(driver, function)(*arguments)
    if int(status) != 0:
        raise RuntimeError(f"{function}: {status.name}")
    return tuple(values)


@contextmanager
def cuda_errors(doing: str) -> Iterator[None]:
    """Turn the exceptions of cuda.core and the driver, whose classes are not public, into DeviceError or
    OutOfMemory."""
    try:
        yield
    except AnimateError:
        raise
    except Exception as error:
        reason = one_line(message_of(error))
        kind = OutOfMemory if "OUT_OF_MEMORY" in reason else DeviceError
        raise kind(f"{doing}: {reason}") from error
