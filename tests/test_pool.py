"""The buffer pool: how much memory it holds, and what it releases first."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from threading import Event

import numpy as np
import pytest
from animate_rt import Animator
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.runtime.streams import pool as pools
from animate_rt.runtime.streams.operations import StreamScheduler
from animate_rt.runtime.streams.pool import SLACK, Lease, Pool

from .clips import pictures, render
from .small_device import SmallDevice


def idle(pool: Pool) -> list[tuple[int, ...]]:
    return [buffer.shape for buffer in pool.free[False].by_age.values()]


def test_the_least_recently_used_goes_first_when_others_are_needed() -> None:
    pool = Pool(device := SmallDevice())
    pool.give(*[pool.take("uint8", (100 + i,)) for i in range(4)])
    pool.give(pool.take("uint8", (100,)))
    assert idle(pool) == [(101,), (102,), (103,), (100,)]
    first = [pool.take("uint8", (110 + i,)) for i in range(3)]
    assert device.released == [(101,), (102,), (103,)][: len(device.released)]
    assert pool.allocated_bytes <= (1 + SLACK) * 406
    pool.give(*first)
    assert pool.take("uint8", (112,)) is first[2]


def test_random_leases_never_hold_more_than_a_quarter_above_the_most_in_use() -> None:
    chance = random.Random(0)
    for _ in range(50):
        pool, leases = Pool(device := SmallDevice()), list[Lease]()
        used = most = 0
        for _ in range(200):
            if leases and chance.random() < 0.4:
                lease = leases.pop(chance.randrange(len(leases)))
                used -= sum(buffer.num_bytes for buffer in lease.held.values())
                lease.close()
            else:
                leases.append(lease := Lease(pool))
                for _ in range(chance.randint(1, 6)):
                    used += lease.take("float32", (chance.randint(1, 40), 4)).num_bytes
                    most = max(most, used)
                    assert pool.allocated_bytes <= (1 + SLACK) * most
            held = [id(buffer) for lease in leases for buffer in lease.held.values()]
            assert len(held) == len(set(held))  # nothing is leased twice
            assert not set(held) & set(pool.free[False].by_age)
            assert pool.free[False].used_bytes == used
            assert pool.free_bytes == pool.allocated_bytes - used
            assert pool.allocated_bytes == (1 << 40) - device.room


def test_at_the_end_of_a_clip_few_bytes_stay_free(
    arithmetic: Callable[..., Animator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ends. On the device and of the host."""
    for limit in (0, 30_000):
        monkeypatch.setattr(pools, "MAX_IDLE_BYTES", limit)
        with arithmetic() as animator:
            pool, options = animator.session.pool, {"reference": pictures(1, 9)[0], "pose": pictures(17)}
            truth = render(animator)
            assert all(free.free_bytes <= limit for free in pool.free.values())
            clip = animator.animate(**options, steps=4)
            next(clip)
            clip.close()
            animator.session.copy_out.record().synchronize()
            with pytest.raises(ZeroDivisionError):
                render(animator, progress=lambda progress: 1 // (progress.stage != "decode"))
            assert np.array_equal(render(animator), truth)
            assert all(free.free_bytes <= limit for free in pool.free.values())


def test_what_operations_still_use_is_not_waited_for() -> None:
    device = CPUDevice()
    scheduler, pool, stream = StreamScheduler(device), Pool(device), device.stream("work")
    go, (used, unused) = Event(), (pool.take("uint8", (100,)), pool.take("uint8", (300_000_000,)))
    with scheduler:
        scheduler.issue("wait", stream, lambda: stream.call(lambda: go.wait(60)), writes=[used])
    pool.give(used, unused)
    pool.trim()
    assert idle(pool) == [(100,)]
    go.set()
    device.close()


def test_released_memory_is_free_at_once() -> None:
    """Without a garbage collection, which may come much later."""
    gc.disable()
    try:
        buffer = CPUDevice().buffer("uint8", (1000,))
        array = weakref.ref(buffer.array)  # type: ignore[arg-type]
        rows = buffer.rows(0, 10)
        assert rows.owner is buffer is buffer.owner
        del buffer, rows
        assert array() is None
    finally:
        gc.enable()
