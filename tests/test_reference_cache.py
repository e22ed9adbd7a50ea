"""The reference cache: one computation per image, a bounded size, and use from several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import sleep

import numpy as np
import pytest
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.runtime.clip.reference import Reference, ReferenceCache, image_key


class Cache(ReferenceCache):
    """A cache that records the sizes of the references it releases."""

    def __init__(self, max_bytes: int):
        self.released: list[int] = []
        super().__init__(max_bytes, lambda reference: self.released.append(reference["key_0"].num_bytes))

    def get(self, name: bytes, compute: Callable[[], Reference]) -> Reference:
        with self.borrow(name, compute) as found:
            return found


def reference(num_bytes: int) -> Reference:
    return {"key_0": CPUDevice().buffer("uint8", (num_bytes,))}


def test_the_least_recently_used_is_evicted_first() -> None:
    cache = Cache(max_bytes=250)
    for name, size in ((b"a", 100), (b"b", 99)):
        cache.get(name, lambda size=size: reference(size))  # type: ignore[misc]
    cache.get(b"a", lambda: reference(100))
    cache.get(b"c", lambda: reference(98))
    assert list(cache.entries) == [b"a", b"c"]
    assert cache.num_bytes == 198
    assert cache.released == [99]


def test_the_newest_stays_even_over_the_budget() -> None:
    cache = Cache(max_bytes=10)
    found = cache.get(b"a", lambda: reference(100))
    assert cache.get(b"a", lambda: reference(1)) is found
    assert not cache.released


def test_a_borrowed_reference_is_released_after_its_last_borrower() -> None:
    cache = Cache(max_bytes=10)
    with cache.borrow(b"a", lambda: reference(100)), cache.borrow(b"a", lambda: reference(100)):
        cache.get(b"b", lambda: reference(50))
        assert list(cache.entries) == [b"b"]
        assert not cache.released
    assert cache.released == [100]


def test_clearing_releases_each_once() -> None:
    cache = Cache(max_bytes=1000)
    with cache.borrow(b"a", lambda: reference(100)):
        cache.get(b"b", lambda: reference(50))
        cache.clear()
        assert cache.released == [50]
    cache.clear()
    assert cache.released == [50, 100]


def test_threads_that_ask_for_one_image_compute_it_once() -> None:
    computed = []

    def compute() -> Reference:
        computed.append(1)
        sleep(0.05)
        return reference(1)

    cache = Cache(max_bytes=100)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get(b"a", compute), range(8)))
    assert len(computed) == 1
    assert all(one is found[0] for one in found)


def test_a_failed_reference_is_computed_again() -> None:
    cache = Cache(max_bytes=100)

    def fail() -> Reference:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.get(b"a", fail)
    assert cache.get(b"a", lambda: reference(1))
    assert not cache.released


def test_the_key_depends_on_pixels_and_shape() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert image_key(image) == image_key(image.copy())
    assert image_key(image) != image_key(image + 1)
    assert image_key(image) != image_key(image.reshape(4, 1, 3))


def test_an_image_does_not_wait_for_another() -> None:
    cache = Cache(max_bytes=100)
    started, finish = Event(), Event()

    def slow() -> Reference:
        started.set()
        assert finish.wait(10)
        return reference(1)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(cache.get, b"slow", slow)
        started.wait(10)
        assert cache.get(b"quick", lambda: reference(2))
        assert not pending.done()
        finish.set()
        assert pending.result(10)


def test_an_interrupted_computation_is_taken_over() -> None:
    """A thread that was waiting for the reference computes it."""
    cache = Cache(max_bytes=100)
    started, finish = Event(), Event()

    def interrupted() -> Reference:
        started.set()
        assert finish.wait(10)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, b"a", interrupted)
        assert started.wait(10)
        second = pool.submit(cache.get, b"a", lambda: reference(7))
        sleep(0.05)
        finish.set()
        with pytest.raises(KeyboardInterrupt):
            first.result(10)
        assert second.result(10)["key_0"].num_bytes == 7


def test_a_reference_being_computed_is_not_evicted() -> None:
    cache = Cache(max_bytes=10)
    started, finish = Event(), Event()
    computed = []

    def slow() -> Reference:
        computed.append(1)
        started.set()
        assert finish.wait(10)
        return reference(5)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, b"slow", slow)
        assert started.wait(10)
        cache.get(b"big", lambda: reference(100))
        second = pool.submit(cache.get, b"slow", slow)
        sleep(0.05)
        finish.set()
        assert first.result(10) is second.result(10)
    assert len(computed) == 1
