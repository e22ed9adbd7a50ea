"""Engines that run once for each reference: loaded when one is encoded, not kept if the model is large."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from traceback import extract_tb
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, Cancelled, DeviceError
from animate_rt.engines.contract import REFERENCE
from animate_rt.engines.device import Device
from animate_rt.runtime.streams import session

from .arithmetic import ArithmeticContext, ArithmeticEngine
from .clips import pictures, render


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as large."""
    monkeypatch.setattr(session, "KEPT_BYTES", -1)


class Loads:
    """`load` for an animator: remembers what it has loaded."""

    def __init__(self) -> None:
        self.engines: list[tuple[str, weakref.ref[ArithmeticEngine]]] = []

    def __call__(self, bundle: Any, graph: str, device: Device) -> ArithmeticEngine:
        engine = ArithmeticEngine(bundle, graph, device)
        self.engines.append((graph, weakref.ref(engine)))
        return engine

    def count(self, graph: str) -> int:
        return sum(name == graph for name, _engine in self.engines)

    def alive(self) -> set[str]:
        return {graph for graph, engine in self.engines if engine() is not None}


def test_a_small_model_keeps_them(arithmetic: Callable[..., Animator]) -> None:
    loads = Loads()
    with arithmetic(load=loads) as animator:
        assert not loads.alive() & set(REFERENCE)
        for seed in range(3):
            render(animator, reference=pictures(1, seed)[0])
        assert loads.alive() >= set(REFERENCE)
        assert [loads.count(graph) for graph in REFERENCE] == [1, 1, 1]


@pytest.mark.usefixtures("large")
def test_a_large_model_does_not(arithmetic: Callable[..., Animator]) -> None:
    """They are gone before the UNet is loaded, and their buffers are used again."""
    with arithmetic() as animator:
        truth = render(animator)
    loads, seen = Loads(), []

    def load(bundle: Any, graph: str, device: Device) -> ArithmeticEngine:
        if graph == "denoising_unet":
            seen.append(loads.alive())
        return loads(bundle, graph, device)

    with arithmetic(load=load, reference_cache_bytes=0) as animator:
        assert np.array_equal(render(animator), truth)
        assert seen == [{"pose_guider", "time_embedding", "vae_decoder"}]
        assert not loads.alive() & set(REFERENCE)
        render(animator)
        assert loads.count("reference_net") == 1  # the newest reference is cached
        taken = []
        for seed in range(5):
            render(animator, reference=pictures(1, seed)[0])
            taken.append(animator.session.pool.allocated_bytes)
        assert loads.count("reference_net") == 6
        assert not loads.alive() & set(REFERENCE)
        assert taken[1:] == [taken[1]] * 4


@pytest.mark.usefixtures("large")
def test_their_memory_is_free_when_the_heap_is_trimmed(
    arithmetic: Callable[..., Animator], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, seen = Loads(), []
    with arithmetic(load=loads) as animator:
        monkeypatch.setattr(animator.session.device, "trim", lambda: seen.append(loads.alive()))
        render(animator)
    assert seen[0] == {"pose_guider", "time_embedding", "vae_decoder"}


@pytest.mark.usefixtures("large")
def test_they_are_freed_while_another_clip_loads_an_engine(arithmetic: Callable[..., Animator]) -> None:
    loads, loading, freed = Loads(), Event(), Event()

    def load(bundle: Any, graph: str, device: Device) -> ArithmeticEngine:
        if graph == "denoising_unet":
            loading.set()
            assert freed.wait(20)
        return loads(bundle, graph, device)

    with arithmetic(load=load) as animator, ThreadPoolExecutor(1) as threads:
        with animator.session.encoders(lambda: None):
            assert loads.alive() >= set(REFERENCE)
            other = threads.submit(animator.session.engine, "denoising_unet")
            assert loading.wait(20)
        assert not loads.alive() & set(REFERENCE)
        freed.set()
        other.result(20)


@pytest.mark.usefixtures("large")
def test_clips_that_encode_at_once(arithmetic: Callable[..., Animator]) -> None:
    references = [pictures(1, seed)[0] for seed in range(12)]
    with arithmetic() as animator:
        truth = [render(animator, reference=each, steps=1) for each in references]
    loads = Loads()
    with arithmetic(load=loads, reference_cache_bytes=0) as animator, ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            found = list(threads.map(lambda each: render(animator, reference=each, steps=1), references))
            assert np.array_equal(found, truth)
        assert not loads.alive() & set(REFERENCE)
        assert animator.session.num_encoding == 0


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("graph", REFERENCE)
def test_one_that_cannot_be_loaded(arithmetic: Callable[..., Animator], graph: str) -> None:
    loads, failing = Loads(), [graph]

    def load(bundle: Any, name: str, device: Device) -> ArithmeticEngine:
        if name in failing:
            raise DeviceError("no")
        return loads(bundle, name, device)

    with arithmetic(load=load) as animator:
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"^no$"):
                render(animator)
        assert animator.session.num_encoding == 0
        assert not loads.alive() & set(REFERENCE)
        failing.clear()
        render(animator)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("error", [DeviceError("no"), MemoryError()])
def test_one_that_fails_is_not_kept(
    arithmetic: Callable[..., Animator], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by the error, which remembers where it was raised."""
    loads, run = Loads(), ArithmeticContext.run

    def fail(context: ArithmeticContext, bound: Any) -> None:
        if context.engine.contract == animator.bundle.manifest.graphs["reference_net"]:
            raise error
        run(context, bound)

    with arithmetic(load=loads) as animator:
        monkeypatch.setattr(ArithmeticContext, "run", fail)
        with pytest.raises(DeviceError) as caught:
            render(animator)
        monkeypatch.setattr(ArithmeticContext, "run", run)
        raised = caught.value.__cause__ or caught.value
        assert "fail" in [frame.name for frame in extract_tb(raised.__traceback__)]  # where it was raised
        assert loads.count("reference_net") == 1
        assert not loads.alive() & set(REFERENCE)
        render(animator)


@pytest.mark.usefixtures("large")
def test_a_clip_that_is_cancelled_while_they_load(arithmetic: Callable[..., Animator]) -> None:
    clips: list[Any] = []

    def load(bundle: Any, name: str, device: Device) -> ArithmeticEngine:
        if name == "reference_net":
            clips[0].cancel()
        return loads(bundle, name, device)

    loads = Loads()
    with arithmetic(load=load) as animator:
        clips.append(animator.animate(pictures(1)[0], pictures(3), steps=1))
        with pytest.raises(Cancelled):
            next(clips[0])
        assert not loads.alive() & set(REFERENCE)


@pytest.mark.usefixtures("large")
def test_frames_are_the_same_bits(small_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Animator.load(small_bundle) as animator:
        options = {"steps": 2, "pose": pictures(3)}
        found = [render(animator, reference=pictures(1, seed)[0], **options) for seed in (1, 2, 1)]
        assert set(animator.session.engines).isdisjoint(REFERENCE)
    monkeypatch.setattr(session, "KEPT_BYTES", 1 << 30)
    with Animator.load(small_bundle) as animator:
        kept = [render(animator, reference=pictures(1, seed)[0], **options) for seed in (1, 2, 1)]
        assert set(animator.session.engines) >= set(REFERENCE)
    assert np.array_equal(found, kept)
