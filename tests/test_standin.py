"""The stand-in for CUDA: it finds the mistakes made here and lets correct programs pass, whose results do not
depend on when things run."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from .program import SIZE, N, Program, capture, instantiate
from .standin import GPU, StandInError, caught, installed

SEEDS = range(8)


def relay(program: Program, *, ordered: bool) -> NDArray[np.float32]:
    """Host to device on one stream, device to host on another."""
    up, down = program.device.create_stream(), program.device.create_stream()
    there = program.memory()
    source, _ = program.pinned(np.arange(N))
    target, result = program.pinned()
    program.copy(there, source, up)
    if ordered:
        down.wait(program.record(up))
    program.copy(target, there, down)
    program.record(down).sync()
    return result.copy()


def test_correct_programs_pass_and_results_do_not_depend_on_the_seed() -> None:
    seen = set()
    for seed in SEEDS:
        with installed(seed) as gpu:
            program = Program(gpu)
            assert relay(program, ordered=True).tolist() == list(range(N))
            seen.add(gpu.haste)
    assert len(seen) > 1


def test_a_missing_event_is_a_race_whatever_runs_first(program: Program) -> None:
    with caught(program.gpu, "no order between a copy .* and a copy"):
        relay(program, ordered=False)


def test_a_missing_event_also_gives_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPU, "check_order", lambda *_: None)
    wrong = 0
    for seed in SEEDS:
        with installed(seed) as gpu:
            program = Program(gpu)
            wrong += relay(program, ordered=False).tolist() != list(range(N))
            program.device.sync()
    assert wrong > 0


def test_nothing_needs_to_run_before_a_wait() -> None:
    with installed(0) as gpu:
        assert gpu.haste == 0
        program = Program(gpu)
        stream = program.device.create_stream()
        target, result = program.pinned(7)
        source = program.memory()
        program.copy(target, source, stream)
        assert np.isnan(result).all()  # the copy may write it at any time, so the host reads NaN
        assert gpu.queues[-1].executed == 0


def test_host_memory_must_not_be_written_before_a_wait(program: Program) -> None:
    gpu, stream = program.gpu, program.device.create_stream()
    gpu.haste = 0
    there = program.memory()
    source, array = program.pinned(1)
    program.copy(there, source, stream)
    array[3] = 2
    with caught(gpu, "the host wrote page-locked memory that a copy had yet to use"):
        stream.sync()


def test_host_memory_may_be_written_after_a_wait(program: Program) -> None:
    stream, there = program.device.create_stream(), program.memory()
    source, array = program.pinned()
    for value in range(3):
        array[:] = value
        program.copy(there, source, stream)
        program.record(stream).sync()
    program.copy(source, there, stream)
    stream.sync()
    assert (array == 2).all()


def test_wrong_addresses(program: Program) -> None:
    gpu, stream, there, other = program.gpu, program.pool, program.memory(), program.memory()
    with caught(gpu, "end outside"):
        program.copy(there, other, stream, SIZE + 1)
    with caught(gpu, "no device or page-locked memory"):
        program.copy(there, other + SIZE, stream, 1)
    with caught(gpu, "no device or page-locked memory"):
        program.copy(there, np.zeros(N, np.float32).ctypes.data, stream)
    with caught(gpu, "onto itself"):
        program.copy(there, there + 4, stream, SIZE - 4)
    assert there % 256 == 0


def test_new_and_freed_memory_is_nan(program: Program) -> None:
    address, array = program.pinned()
    assert np.isnan(array).all()
    array[:] = 1
    program.kept[-1].close()
    assert np.isnan(array).all()
    with caught(program.gpu, "has been freed"):
        program.copy(program.memory(), address, program.pool)


def test_pool_memory_must_not_be_used_before_its_allocation_or_after_its_deallocation(
    program: Program,
) -> None:
    stream = program.device.create_stream()
    buffer = program.device.allocate(SIZE, stream=program.pool)
    source, _ = program.pinned(0)
    with caught(program.gpu, "no order between an allocation"):
        program.copy(buffer.handle, source, stream)
    program.pool.sync()
    program.copy(buffer.handle, source, stream)
    with caught(program.gpu, "no order between a copy .* and a deallocation"):
        buffer.close(program.pool)


def test_pinned_memory_must_not_be_freed_in_use(program: Program) -> None:
    there, (source, _) = program.memory(), program.pinned(0)
    program.copy(there, source, program.pool)
    with caught(program.gpu, "memory is freed that a copy .* may still use"):
        program.kept[-1].close()


def test_a_mistake_in_a_destructor_is_raised_at_the_end() -> None:
    def forget() -> None:
        with installed(0) as gpu:
            program = Program(gpu)
            program.copy(program.memory(), program.pinned(0)[0], program.pool)
            program.kept.clear()
            gc.collect()

    with pytest.raises(StandInError, match=r"memory is freed that a copy .* may still use"):
        forget()


def test_out_of_memory(program: Program) -> None:
    program.gpu.memory.total_bytes = 10 * SIZE
    free = program.driver.cuMemGetInfo()[1]
    with pytest.raises(Exception, match="CUDA_ERROR_OUT_OF_MEMORY"):
        program.memory(11 * SIZE)
    assert free == program.driver.cuMemGetInfo()[1] == 10 * SIZE


def test_a_thread_must_set_its_device_first(program: Program) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            program.record(program.pool)
        except StandInError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    program.gpu.memory.mistakes.clear()
    assert "a thread that has not set its device" in str(failures[0])


def test_events(program: Program) -> None:
    core, stream = program.core, program.device.create_stream()
    timed = core.EventOptions(timing_enabled=True)
    start = stream.record(options=timed)
    end = stream.record(options=timed)
    polls = 0
    while not end.is_done:
        polls += 1
        assert polls < 1000
    assert end.is_done
    assert end - start >= 0
    with pytest.raises(RuntimeError, match="timing"):
        program.record(stream) - start


# Kernels


def test_kernel_arguments(program: Program) -> None:
    gpu, stream = program.gpu, program.pool
    a, b, c = (program.memory() for _ in range(3))
    good = (a, b, c, np.int64(N), np.bool_(True), np.bool_(False), np.float32(1), np.float32(2))
    program.update(stream, *good)
    with caught(gpu, "argument a: expected float, found float"):
        program.update(stream, *good[:6], 1.0, 2.0)
    with caught(gpu, "argument count: expected long long, found int"):
        program.update(stream, *good[:3], N, *good[4:])
    with caught(gpu, "does not cover 65 elements"):
        program.update(stream, *good[:3], np.int64(N + 1), *good[4:])
    with caught(gpu, "end outside"):
        program.update(stream, *good[:3], np.int64(2 * N), *good[4:], block=2 * N)
    with caught(gpu, "no device or page-locked memory"):
        program.update(stream, a, 0, *good[2:])
    with caught(gpu, "expected device memory .* found host memory"):
        program.update(stream, a, b, program.pinned()[0], *good[3:])
    with pytest.raises(ValueError, match="zip"):
        program.update(stream, *good[:-1])
    stream.sync()


# Captures


def test_captured_work_runs_when_it_is_launched(program: Program) -> None:
    stream, there = program.device.create_stream(), program.memory()
    source, array = program.pinned(1)
    target, result = program.pinned(5)
    capture(program, stream)
    program.copy(there, source, stream)
    program.copy(target, there, stream)
    executable = instantiate(program, stream)
    stream.sync()
    assert (result == 5).all()
    for value in (3, 4):
        array[:] = value
        assert program.driver.cuGraphLaunch(executable, stream.handle)[0] == 0
        stream.sync()
        assert (result == value).all()
    program.driver.cuGraphLaunch(executable, stream.handle)
    program.driver.cuGraphExecDestroy(executable)  # in flight
    stream.sync()
    with caught(program.gpu, "launch of a graph that has been destroyed"):
        program.driver.cuGraphLaunch(executable, stream.handle)


def test_replaying_into_freed_memory(program: Program) -> None:
    stream, there = program.device.create_stream(), program.memory()
    gone = program.kept[-1]
    source, _ = program.pinned(1)
    capture(program, stream)
    program.copy(there, source, stream)
    executable = instantiate(program, stream)
    gone.close(program.pool)
    program.pool.sync()
    with caught(program.gpu, "has been freed"):
        program.driver.cuGraphLaunch(executable, stream.handle)


def test_rules_of_a_capture(program: Program) -> None:
    gpu, stream, other = program.gpu, program.device.create_stream(), program.device.create_stream()
    before, outside = program.record(stream), program.record(other)
    capture(program, stream)
    for wrong in (
        lambda: program.memory(),
        lambda: program.pinned(),
        lambda: stream.sync(),
        lambda: outside.sync(),
        lambda: outside.is_done,
        lambda: program.device.sync(),
    ):
        with caught(gpu, "while this thread captures a stream"):
            wrong()
    for event in (before, outside):
        with caught(gpu, "across the bounds of a capture"):
            stream.wait(event)
    inside = program.record(stream)
    with caught(gpu, "across the bounds of a capture"):
        other.wait(inside)
    instantiate(program, stream)
    with caught(gpu, "that is captured"):
        inside.sync()
    with caught(gpu, "did not begin it"):
        program.driver.cuStreamEndCapture(stream.handle)
    modes = program.driver.CUstreamCaptureMode
    with caught(gpu, "other threads' work"):
        program.driver.cuStreamBeginCapture(stream.handle, modes.CU_STREAM_CAPTURE_MODE_GLOBAL)


def test_packages_are_replaced_and_restored() -> None:
    before = {name: module for name, module in sys.modules.items() if name.startswith(("cuda", "tensorrt"))}
    with installed():
        import tensorrt
        from cuda.core import Device

        assert (tensorrt.__name__, Device(0).name) == ("tensorrt", "Stand-in GPU")
        with pytest.raises(ImportError):
            import cuda.core.graph  # noqa: F401
    after = {name: module for name, module in sys.modules.items() if name.startswith(("cuda", "tensorrt"))}
    assert before == after
