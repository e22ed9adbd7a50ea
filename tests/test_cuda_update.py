"""The sampler's kernel on the stand-in for CUDA, and compiled as C++: bit for bit the CPU's updates."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from animate_rt.engines.cpu.device import apply
from animate_rt.engines.cuda import device as cuda
from animate_rt.engines.cuda.device import CUDADevice
from animate_rt.engines.device import Buffer, Estimate, Term, Update

from .test_cuda import SHAPE, Array, filled


def numbers(seed: int) -> tuple[list[Array], float, float]:
    """Latents, total, prediction and two estimates, and two factors."""
    chance = np.random.default_rng(seed)
    a, b = chance.standard_normal(2)
    return [chance.standard_normal(SHAPE).astype(np.float32) for _ in range(5)], float(a), float(b)


def update_of(buffers: Sequence[Buffer], first: bool, last: bool, a: float, b: float, count: int) -> Update:
    """An update that reads `count` estimates and, if there are any, overwrites the last estimate."""
    latents, total, prediction, *estimates = buffers
    earlier = tuple(map(Term, estimates[:count], (b - a, 0.3 * a)))
    estimate = Estimate(estimates[-1], -b, a * b) if count else None
    return Update(latents, total, prediction, first, last, a, b, earlier, estimate)


def on_the_cpu(
    arrays: list[Array], first: bool, last: bool, a: float, b: float, count: int = 0
) -> list[Array | None]:
    """The arrays after an update; None for the total after the last window, which is undefined."""
    buffers = [Buffer("float32", SHAPE, 0, array=array.copy()) for array in arrays]
    apply(update_of(buffers, first, last, a, b, count))
    return [None if last and i == 1 else buffer.array for i, buffer in enumerate(buffers)]


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_updates_equal_the_cpu(device: CUDADevice, first: bool, last: bool, count: int) -> None:
    arrays, a, b = numbers(first + 2 * last)
    hosts, there = zip(*(filled(device, array) for array in arrays), strict=True)
    stream = device.stream("sampler")
    stream.copy(*zip(there, hosts, strict=True))
    stream.update([update_of(there, first, last, a, b, count)])
    backs = [device.host_buffer("float32", SHAPE) for _ in hosts]
    stream.copy(*zip(backs, there, strict=True))
    stream.record().synchronize()
    expected = on_the_cpu(arrays, first, last, a, b, count)
    for back, array in zip(backs, expected, strict=True):
        assert back.array is not None
        assert array is None or back.array.tobytes() == array.tobytes()


def test_an_update_of_one_window_needs_no_total(device: CUDADevice) -> None:
    arrays, a, b = numbers(0)
    (host, latents), (other, prediction) = filled(device, arrays[0]), filled(device, arrays[2])
    stream = device.stream("sampler")
    stream.copy((latents, host), (prediction, other))
    stream.update([])
    stream.update([Update(latents.rows(1, 3), None, prediction.rows(1, 3), True, True, a, b)])
    stream.copy((host, latents))
    stream.record().synchronize()
    expected = on_the_cpu(arrays, True, True, a, b)[0]
    assert expected is not None
    assert host.array is not None
    assert np.array_equal(host.array[1:], expected[1:])
    assert np.array_equal(host.array[0], arrays[0][0])
    with pytest.raises(AssertionError):
        stream.update([Update(latents, None, prediction, True, False, a, b)])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_the_kernel_compiled_as_cpp_equals_the_cpu(tmp_path: Path) -> None:
    """Compiled as C++, with one thread after another and some past the end: bit for bit the same."""
    (tmp_path / "update.cpp").write_text(
        "struct Index { unsigned x; };\nstatic Index threadIdx, blockIdx, blockDim;\n#define __global__\n"
        + cuda.UPDATE
        + 'extern "C" void run(float* l, float* t, const float* p, float* x, float* y, long long n, bool f, '
        "bool e, float a, float b, int count) {"
        "blockDim.x = 32; for (blockIdx.x = 0; blockIdx.x * 32 < n + 64; blockIdx.x++)"
        "for (threadIdx.x = 0; threadIdx.x < 32; threadIdx.x++) update(l, t, p, n, f, e, a, b, "
        "count > 0 ? x : 0, b - a, count > 1 ? y : 0, 0.3 * a, count ? y : 0, -b, a * b); }"
    )
    library = tmp_path / "update.so"
    options = ["-O2", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["g++", *options, str(tmp_path / "update.cpp"), "-o", str(library)], check=True)
    run = ctypes.CDLL(str(library)).run
    pointer = ctypes.POINTER(ctypes.c_float)
    run.argtypes = [pointer] * 5 + [ctypes.c_longlong] + [ctypes.c_bool] * 2
    run.argtypes += [ctypes.c_float] * 2 + [ctypes.c_int]
    for seed in range(24):
        first, last, count = bool(seed & 1), bool(seed & 2), seed % 3
        arrays, a, b = numbers(seed)
        a, b = float(np.float32(a)), float(np.float32(b))
        expected = on_the_cpu(arrays, first, last, a, b, count)
        run(*(array.ctypes.data_as(pointer) for array in arrays), arrays[0].size, first, last, a, b, count)
        assert all(y is None or x.tobytes() == y.tobytes() for x, y in zip(arrays, expected, strict=True))
