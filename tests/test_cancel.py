"""Cancelling a clip from another thread: whatever it waits for, soon, and with everything given back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, Cancelled, Progress
from animate_rt.engines.device import Array
from animate_rt.runtime.clip.frames import Frames
from animate_rt.runtime.streams.operations import Operation

from .arithmetic import ArithmeticContext, ArithmeticEngine
from .clips import pictures, render
from .delays import DelayedDevice
from .hazards import hazards

REFERENCE = pictures(1, 9)[0]
STAGES = [
    *("image_encoder", "vae_encoder", "reference_net", "time_embedding", "pose_guider"),
    *("denoising_unet", "vae_decoder"),
]
RUN_S = 0.1


class SlowUNet(ArithmeticEngine):
    """The UNet takes RUN_S, as one of full size takes seconds."""

    def context(self, workspace: Any) -> ArithmeticContext:
        is_unet = self.contract.outputs[0].name == "prediction"
        return SlowContext(self) if is_unet else super().context(workspace)


class SlowContext(ArithmeticContext):
    def run(self, bound: Any) -> None:
        sleep(RUN_S)
        super().run(bound)


class Held:
    """`load` for an animator: loading the UNet takes until `release` is set."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, bundle: Any, graph: str, device: Any) -> ArithmeticEngine:
        if graph == "denoising_unet":
            self.begun.set()
            assert self.release.wait(60)
        return ArithmeticEngine(bundle, graph, device)


class Paused:
    """`load` for an animator: once `graph` is paused, its next run waits until `release` is set."""

    def __init__(self, graph: str) -> None:
        self.graph, self.paused = graph, False
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, bundle: Any, graph: str, device: Any) -> ArithmeticEngine:
        engine = ArithmeticEngine(bundle, graph, device)
        if graph == self.graph:
            context = PausedContext(engine, self)
            engine.context = lambda _workspace: context  # type: ignore[method-assign]
        return engine


class PausedContext(ArithmeticContext):
    def __init__(self, engine: ArithmeticEngine, load: Paused):
        super().__init__(engine)
        self.load = load

    def run(self, bound: Any) -> None:
        if self.load.paused:
            self.load.begun.set()
            assert self.load.release.wait(60)
        super().run(bound)


def consume(frames: Frames) -> list[Array]:
    return list(frames)


def used(animator: Animator) -> tuple[int, int]:
    """Bytes of clips and engines, without cached references, and the number of references in use."""
    pool, cached = animator.session.pool, animator.references.num_bytes
    borrowed = sum(entry.borrowers for entry in animator.references.entries.values())
    return sum(free.used_bytes for free in pool.free.values()) - cached, borrowed


def check_given_back(animator: Animator, before: tuple[int, int], truth: Array) -> None:
    assert used(animator) == before
    assert np.array_equal(render(animator), truth)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_before_the_first_frame(arithmetic: Callable[..., Animator]) -> None:
    with arithmetic() as animator:
        clip = animator.animate(REFERENCE, pictures(17), steps=4)
        clip.cancel()
        with pytest.raises(Cancelled, match="cancelled on request"):
            next(clip)
        assert list(clip) == []
        assert animator.session.engine("reference_net").runs == 0
        assert not animator.references.entries


def test_between_frames(arithmetic: Callable[..., Animator]) -> None:
    with arithmetic() as animator:
        truth = render(animator)
        before = used(animator)
        for taken in (1, 5, 16):
            clip = animator.animate(REFERENCE, pictures(17), steps=4)
            assert all(np.array_equal(next(clip), truth[i]) for i in range(taken))
            clip.cancel()
            with pytest.raises(Cancelled):
                next(clip)
            assert list(clip) == []
            check_given_back(animator, before, truth)


def test_after_the_end_nothing_happens(arithmetic: Callable[..., Animator]) -> None:
    with arithmetic() as animator:
        clip = animator.animate(REFERENCE, pictures(3), steps=2)
        assert len(list(clip)) == 3
        clip.cancel()
        clip.cancel()
        assert list(clip) == []
        clip.close()
        closed = animator.animate(REFERENCE, pictures(3), steps=2)
        closed.close()
        closed.cancel()
        assert list(closed) == []


@pytest.mark.parametrize("windows", ["uniform", "open"])
def test_at_most_one_run_of_the_unet_later(
    arithmetic: Callable[..., Animator],
    pool: ThreadPoolExecutor,
    windows: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with arithmetic(load=SlowUNet) as animator:
        render(animator, pose=pictures(1), steps=1)
        before = used(animator)
        denoised = threading.Event()

        def seen(progress: Progress) -> None:
            if progress.stage == "denoise" and progress.done == 3:
                denoised.set()

        clip = animator.animate(REFERENCE, pictures(40), steps=4, windows=windows, progress=seen)
        ended: list[tuple[float, int]] = []
        unet = animator.session.engine("denoising_unet")

        def iterate() -> None:
            try:
                list(clip)
            finally:
                ended.append((perf_counter(), unet.runs))

        waiting = pool.submit(iterate)
        assert denoised.wait(60)
        began, runs = perf_counter(), unet.runs
        clip.cancel()
        with pytest.raises(Cancelled):
            waiting.result(60)
        (end, runs_at_end), *_ = ended
        with capsys.disabled():
            print(f"\n{windows}: cancelled after {(end - began) / RUN_S:.2f} runs of the UNet")
        assert runs_at_end - runs <= 1
        assert used(animator) == before


@pytest.mark.parametrize("windows", ["uniform", "open"])
def test_while_it_waits_for_a_pose(
    arithmetic: Callable[..., Animator], pool: ThreadPoolExecutor, windows: str
) -> None:
    """It ends with the next pose frame, however many would come."""
    asked, answer = threading.Semaphore(0), threading.Semaphore(0)
    read = 0

    def poses() -> Iterator[Array]:
        nonlocal read
        while True:
            asked.release()
            assert answer.acquire(timeout=60)
            read += 1
            yield REFERENCE

    with arithmetic() as animator:
        truth = render(animator)
        before = used(animator)
        clip = animator.animate(REFERENCE, poses(), steps=4, windows=windows)
        waiting = pool.submit(consume, clip)
        for _ in range(30):
            assert asked.acquire(timeout=60)
            answer.release()
        assert asked.acquire(timeout=60)
        clip.cancel()
        assert not waiting.done()
        answer.release()
        with pytest.raises(Cancelled):
            waiting.result(60)
        assert read == 31
        check_given_back(animator, before, truth)


def test_while_it_or_another_clip_loads(
    arithmetic: Callable[..., Animator], pool: ThreadPoolExecutor
) -> None:
    held = Held()
    with arithmetic(load=held) as animator:
        clips = [animator.animate(REFERENCE, pictures(9), steps=2) for _ in range(3)]
        loading = pool.submit(consume, clips[0])
        assert held.begun.wait(60)
        waiting = pool.submit(consume, clips[1])
        clips[1].cancel()
        with pytest.raises(Cancelled):
            waiting.result(10)  # although the other one still loads
        clips[0].cancel()
        held.release.set()
        with pytest.raises(Cancelled):
            loading.result(10)
        assert animator.session.engine("denoising_unet").runs == 0
        assert len(consume(clips[2])) == 9


def test_while_another_clip_computes_the_reference(
    arithmetic: Callable[..., Animator], pool: ThreadPoolExecutor
) -> None:
    with arithmetic() as animator:
        truth = render(animator)
        entry = next(iter(animator.references.entries.values()))
        reference, entry.future = entry.future.result(), Future()  # as if another clip computed it
        clip = animator.animate(REFERENCE, pictures(17), steps=4)
        waiting = pool.submit(consume, clip)
        while entry.borrowers == 0:
            sleep(0.001)
        clip.cancel()
        with pytest.raises(Cancelled):
            waiting.result(10)
        assert entry.borrowers == 0
        entry.future.set_result(reference)
        assert np.array_equal(render(animator), truth)


@pytest.mark.parametrize("graph", STAGES)
def test_while_the_caller_waits_for(
    arithmetic: Callable[..., Animator], pool: ThreadPoolExecutor, graph: str
) -> None:
    """The caller is inside `next`, and the device is busy with one stage of its clip."""
    load = Paused(graph)
    with arithmetic(load=load) as animator:
        truth = render(animator)
        before, unet = used(animator), animator.session.engine("denoising_unet")
        runs = unet.runs
        load.paused = True
        clip = animator.animate(pictures(1, 33)[0], pictures(17), steps=4, windows="open")
        waiting = pool.submit(consume, clip)
        assert load.begun.wait(60)
        clip.cancel()
        load.release.set()
        with pytest.raises(Cancelled):
            waiting.result(10)
        if graph != "vae_decoder":  # the task that runs is finished
            issued = 0 if graph in STAGES[:3] else 1
            assert unet.runs - runs <= issued
        check_given_back(animator, before, truth)
        assert len(consume(animator.animate(pictures(1, 33)[0], pictures(17), steps=4))) == 17


def test_at_any_time(arithmetic: Callable[..., Animator], pool: ThreadPoolExecutor) -> None:
    """Clips of four threads, some cancelled at random times: all others have the right frames."""
    chance = random.Random(0)
    log: list[Operation] = []
    with arithmetic(device=DelayedDevice(0, 0.001), observe=log.append) as animator:
        truth = render(animator)
        before = used(animator)
        cancelled = 0
        for _ in range(25):
            clips = [animator.animate(REFERENCE, pictures(17), steps=4) for _ in range(4)]
            results = [pool.submit(consume, clip) for clip in clips]
            sleep(chance.random() ** 2 * 0.1)
            for clip in clips[1:]:
                clip.cancel()
            assert np.array_equal(np.stack(results[0].result(60)), truth)
            for result in results[1:]:
                with suppress(Cancelled):
                    assert np.array_equal(np.stack(result.result(60)), truth)
                    cancelled -= 1
                cancelled += 1
        assert cancelled > 25
        check_given_back(animator, before, truth)
    assert not hazards(log)


def test_with_openvino(small_bundle: Path, pool: ThreadPoolExecutor) -> None:
    with Animator.load(small_bundle) as animator:
        truth = render(animator)
        denoised = threading.Event()

        def seen(progress: Progress) -> None:
            if progress.stage == "denoise" and progress.done:
                denoised.set()

        clip = animator.animate(REFERENCE, pictures(60), steps=8, progress=seen)
        waiting = pool.submit(consume, clip)
        assert denoised.wait(60)
        clip.cancel()
        with pytest.raises(Cancelled):
            waiting.result(60)
        assert np.array_equal(render(animator), truth)
