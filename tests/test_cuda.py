"""The CUDA device on its stand-in: every call, and every way it can fail."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from animate_rt.engines.contract import DType
from animate_rt.engines.cuda.device import CUDADevice
from animate_rt.engines.device import Buffer
from animate_rt.errors import DeviceError, OutOfMemory
from numpy.typing import NDArray

from .standin import GPU, caught, installed

Array = NDArray[Any]
SHAPE = (3, 4, 5, 7)


def filled(device: CUDADevice, array: Array) -> tuple[Buffer, Buffer]:
    """A page-locked buffer that holds the array, and a device buffer of its shape."""
    dtype: Any = array.dtype.name
    host = device.host_buffer(dtype, array.shape)
    assert host.array is not None
    host.array[...] = array
    return host, device.buffer(dtype, array.shape)


# The device


def test_description(gpu: GPU, device: CUDADevice) -> None:
    assert device.description == "Stand-in GPU"
    assert device.compute_capability == gpu.capability


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_copies_between_host_device_and_rows(device: CUDADevice, dtype: DType) -> None:
    values = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    host, first = filled(device, values)
    second, back = device.buffer(dtype, SHAPE), device.host_buffer(dtype, SHAPE)
    assert back.array is not None
    assert (back.array.dtype, back.array.shape) == (np.dtype(dtype), SHAPE)
    stream = device.stream("copies")
    stream.copy((first, host), (second.rows(0, 2), first.rows(1, 3)), (second.rows(2, 3), first.rows(0, 1)))
    stream.copy((back, second))
    stream.record().synchronize()
    assert np.array_equal(back.array, np.roll(values, -1, axis=0))


def test_copies_between_other_shapes_or_dtypes_are_refused(device: CUDADevice) -> None:
    a, b, c = (
        device.buffer("float32", (2, 3)),
        device.buffer("float32", (3, 2)),
        device.buffer("int32", (2, 3)),
    )
    stream = device.stream("copies")
    with pytest.raises(AssertionError):
        stream.copy((a, b))
    with pytest.raises(AssertionError):
        stream.copy((a, c))


def test_events_order_streams(device: CUDADevice) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    host, there = filled(device, values)
    back = device.host_buffer("float32", SHAPE)
    up, down = device.stream("up"), device.stream("down")
    for step in range(3):
        assert host.array is not None
        host.array[...] = values + step
        up.copy((there, host))
        event = up.record()
        up.wait(event, needs=False)
        down.wait(event, needs=True)
        down.copy((back, there))
        done = down.record()
        up.wait(done, needs=False)
        done.synchronize()
        assert back.array is not None
        assert np.array_equal(back.array, values + step)


def test_the_stand_in_finds_a_missing_event(gpu: GPU, device: CUDADevice) -> None:
    host, there = filled(device, np.zeros(SHAPE, np.float32))
    device.stream("up").copy((there, host))
    with caught(gpu, "no order"):
        device.stream("down").copy((device.host_buffer("float32", SHAPE), there))


def test_events_have_times(device: CUDADevice) -> None:
    stream = device.stream("work")
    first, second = stream.record(), stream.record()
    while not second.done:
        pass
    first.synchronize()
    assert 0 <= first.time_s <= second.time_s


def test_events_have_no_times_unless_the_device_was_opened_with_timing() -> None:
    with installed():
        device = CUDADevice(timing=False)
        event = device.stream("work").record()
        event.synchronize()
        with pytest.raises(DeviceError, match="timing enabled"):
            _ = event.time_s
        device.close()


def test_each_thread_activates_the_device(gpu: GPU, device: CUDADevice) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            device.activate()
            host, there = filled(device, np.ones(SHAPE, np.float32))
            stream = device.stream("thread")
            stream.copy((there, host))
            stream.record().synchronize()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert gpu.calls["Device.set_current"] == 4


def test_memory_is_counted_and_freed_by_close(gpu: GPU) -> None:
    device = CUDADevice(timing=False)
    free = device.free_bytes()
    device.buffer("uint8", (1 << 20,))
    assert device.free_bytes() == free - (1 << 20)
    host, there = filled(device, np.ones(SHAPE, np.float32))
    device.stream("work").copy((there, host))  # never waited for
    device.close()
    device.close()
    assert gpu.memory.used_bytes == 0


def test_released_memory_goes_back_to_the_driver(gpu: GPU, device: CUDADevice) -> None:
    """cuda.core's pool keeps it for this process until it is trimmed."""
    free = device.free_bytes()
    buffers = [device.buffer("uint8", (1 << 20,)) for _ in range(3)]
    device.release(*buffers[:2])
    assert gpu.memory.reserved_bytes == 3 << 20
    assert device.free_bytes() == free - (1 << 20)  # what the pool keeps can be allocated again
    device.trim()
    assert gpu.memory.reserved_bytes == 1 << 20
    device.close()
    device.release(buffers[2])  # by a thread that was about to when the device was closed
    assert gpu.memory.reserved_bytes == 0


def test_a_gpu_without_memory_pools(device: CUDADevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda.core then has another resource, without attributes."""
    monkeypatch.setattr(type(device.device), "memory_resource", object())
    free = device.free_bytes()
    device.release(device.buffer("uint8", (1 << 20,)))
    device.trim()
    assert device.free_bytes() < free


def test_memory_is_allocated_and_released_by_several_threads(gpu: GPU, device: CUDADevice) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            device.activate()
            for _ in range(30):
                device.release(device.buffer("uint8", (512,)), device.host_buffer("uint8", (512,)))
                device.buffer("uint8", (256,))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert gpu.memory.used_bytes == 4 * 30 * 256
    device.close()
    assert gpu.memory.used_bytes == 0  # none was forgotten


def test_out_of_memory(gpu: GPU, device: CUDADevice) -> None:
    gpu.memory.total_bytes = 8_000_000
    with pytest.raises(
        OutOfMemory, match=r"no room for float32 \(3, 1000000\): expected 12 MB, found 8 MB free"
    ):
        device.buffer("float32", (3, 1_000_000))
    gpu.faults["LegacyPinnedMemoryResource.allocate"] = RuntimeError(
        "CUDA_ERROR_OUT_OF_MEMORY: no more\npages"
    )
    with pytest.raises(OutOfMemory, match="no room for uint8"):
        device.host_buffer("uint8", (10,))
    gpu.faults.clear()
    device.buffer("float32", (1, 1_000_000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Device.set_current", "expected an NVIDIA GPU and its driver"),
        ("Program.compile", r"cannot compile for the GPU; pip install 'animate-rt\[tensorrt\]'"),
        ("Device.create_stream", "allocations"),
    ],
)
def test_a_device_that_cannot_be_opened(call: str, message: str) -> None:
    with installed() as gpu:
        gpu.faults[call] = RuntimeError("Failure finding\nsomething")
        with pytest.raises(DeviceError, match=message) as caught:
            CUDADevice(timing=False)
        assert "\n" not in str(caught.value)


def test_without_cuda_core() -> None:
    with installed():
        sys.modules["cuda.core"] = None  # type: ignore[assignment]
        with pytest.raises(DeviceError, match="expected the package cuda-core, found none; pip install"):
            CUDADevice(timing=False)


def test_errors_of_the_gpu_are_raised_by_waits_and_later_calls(caplog: pytest.LogCaptureFixture) -> None:
    with installed() as gpu:
        device = CUDADevice(timing=False)
        stream = device.stream("denoise")
        event = stream.record()
        for call in ("Event.sync", "Event._query", "Device.sync", "Stream.record", "Stream.wait"):
            gpu.faults[call] = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: While executing\na kernel")
        from cuda.bindings.driver import CUresult

        gpu.faults["cuMemcpyAsync"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        a, b = device.buffer("uint8", (1,)), device.buffer("uint8", (1,))
        other = device.stream("other")
        for action in (
            event.synchronize,
            lambda: event.done,
            stream.record,
            lambda: stream.copy((a, b)),
            lambda: other.wait(event, needs=True),
        ):
            with pytest.raises(DeviceError, match=r"(denoise|other).*CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
                action()
            assert "\n" not in str(caught.value)
        device.close()
        assert "closed after an error" in caplog.text
