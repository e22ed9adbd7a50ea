"""The reference cache: once per image, bounded, shared by threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import sleep

import numpy as np
import pytest
from animate_rt.runtime.reference import Reference, ReferenceCache, image_key


def reference(num_bytes: int) -> Reference:
    return {"key_0": np.zeros(num_bytes, np.uint8)}


def test_the_least_recently_used_goes_first() -> None:
    cache = ReferenceCache(max_bytes=250)
    for name in (b"a", b"b"):
        cache.get(name, lambda: reference(100))
    cache.get(b"a", lambda: reference(100))
    cache.get(b"c", lambda: reference(100))
    assert list(cache.references) == [b"a", b"c"]
    assert cache.num_bytes == 200


def test_the_newest_stays_even_over_the_budget() -> None:
    cache = ReferenceCache(max_bytes=10)
    found = cache.get(b"a", lambda: reference(100))
    assert cache.get(b"a", lambda: reference(1)) is found


def test_threads_that_ask_for_one_image_compute_it_once() -> None:
    computed = []

    def compute() -> Reference:
        computed.append(1)
        sleep(0.05)
        return reference(1)

    cache = ReferenceCache(max_bytes=100)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get(b"a", compute), range(8)))
    assert len(computed) == 1
    assert all(one is found[0] for one in found)


def test_a_failed_reference_is_computed_again() -> None:
    cache = ReferenceCache(max_bytes=100)

    def fail() -> Reference:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.get(b"a", fail)
    assert cache.get(b"a", lambda: reference(1))


def test_the_key_is_the_content() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert image_key(image) == image_key(image.copy())
    assert image_key(image) != image_key(image + 1)
    assert image_key(image) != image_key(image.reshape(4, 1, 3))


def test_another_image_does_not_wait() -> None:
    cache = ReferenceCache(max_bytes=100)
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
