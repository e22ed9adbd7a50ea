"""Clips that fail, are abandoned or run out of memory: they return their memory and affect no other clip."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, DeviceError, InputError, OutOfMemory, Progress, Rejected
from animate_rt.engines.backends import load_engine
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.cpu.device import CPUDevice, CPUStream
from animate_rt.engines.device import Array

from .arithmetic import ArithmeticEngine
from .clips import POSES, pictures, render
from .delays import DelayedDevice
from .small_device import SmallDevice


def test_an_abandoned_clip_returns_its_memory_and_does_not_affect_others(
    arithmetic: Callable[..., Animator],
) -> None:
    with arithmetic(device=DelayedDevice(0, 0.002)) as animator:
        truth = render(animator)
        allocated = animator.session.pool.allocated_bytes
        for taken in (0, 1, 3):
            clip = animator.animate(pictures(1, 9)[0], pictures(17, 8), steps=4)
            other = animator.animate(pictures(1, 9)[0], pictures(17), steps=4)
            for _ in range(taken):
                next(clip)
            clip.close()
            assert np.array_equal(np.stack(list(other)), truth)
        assert animator.session.pool.allocated_bytes == allocated
        assert not any(entry.borrowers for entry in animator.references.entries.values())


class FailingOnce:
    """`load` for an animator: the engines of `load`, where run number `run` of the engine `graph` fails."""

    def __init__(self, load: Any, graph: str, run: int):
        self.load, self.graph, self.run = load, graph, run

    def __call__(self, bundle: Any, graph: str, device: Any) -> Any:
        engine = self.load(bundle, graph, device)
        if graph == self.graph:
            context = engine.context
            engine.context = lambda workspace: FailingContext(context(workspace), self)
        return engine


class FailingContext:
    def __init__(self, context: Any, countdown: FailingOnce):
        self.context, self.countdown = context, countdown
        self.bind = context.bind

    def enqueue(self, stream: CPUStream) -> None:
        stream.call(self.fail)
        self.context.enqueue(stream)

    def fail(self) -> None:
        self.countdown.run -= 1
        if self.countdown.run == 0:
            raise DeviceError("planted failure")


FAILURES = [
    ("image_encoder", 1),
    ("reference_net", 1),
    ("time_embedding", 2),
    ("pose_guider", 1),
    ("pose_guider", 4),
    ("denoising_unet", 1),
    ("denoising_unet", 6),
    ("vae_decoder", 1),
    ("vae_decoder", 9),
]


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize(("graph", "run"), FAILURES)
def test_a_failure_on_the_device_is_raised_once_and_does_not_affect_other_clips(
    arithmetic: Callable[..., Animator], graph: str, run: int, observed: bool
) -> None:
    for windows in ("uniform", "open"):
        with arithmetic() as animator:
            truth = render(animator, windows=windows)
        observe = (lambda _operation: None) if observed else None
        with arithmetic(load=FailingOnce(ArithmeticEngine, graph, run), observe=observe) as animator:
            clip = animator.animate(pictures(1, 9)[0], pictures(17), steps=4, windows=windows)
            made: list[Array] = []
            with pytest.raises(DeviceError, match="planted failure"):
                made.extend(clip)
            assert all(np.array_equal(a, b) for a, b in zip(made, truth, strict=False))
            for _ in range(2):
                assert np.array_equal(render(animator, windows=windows), truth)


def test_closing_the_animator_while_a_clip_is_made(arithmetic: Callable[..., Animator]) -> None:
    animator = arithmetic(device=DelayedDevice(0, 0.01))
    clip = animator.animate(pictures(1)[0], pictures(40), steps=4, windows="open")
    next(clip)
    animator.close()
    with pytest.raises(Rejected, match="found it closed"):
        list(clip)
    animator.close()


def test_a_clip_after_skipped_openvino_runs_is_right(small_bundle: Path) -> None:
    """The stream's thread sets tensors before a run. Those of a skipped run must not count as set."""
    bundle = open_bundle(small_bundle)
    with Animator(bundle) as animator:
        truth = render(animator, reference=pictures(1, 5)[0])
    with Animator(bundle, load=FailingOnce(load_engine, "pose_guider", 3)) as animator:
        with pytest.raises(DeviceError, match="planted failure"):
            render(animator)
        assert np.array_equal(render(animator, reference=pictures(1, 5)[0]), truth)


def test_closing_the_animator_drops_frames_not_yet_taken(arithmetic: Callable[..., Animator]) -> None:
    animator = arithmetic()
    clip = animator.animate(pictures(1)[0], pictures(6), steps=1)
    next(clip)
    animator.close()
    with pytest.raises(Rejected, match="found it closed"):
        next(clip)
    assert animator.session.pool.free_bytes == 0


def test_free_buffers_of_other_shapes_are_released_when_memory_is_full(
    arithmetic: Callable[..., Animator],
) -> None:
    clips = [{"overlap": overlap, "pose": pictures(40)} for overlap in (4, 0, 1, 2, 3, 5)]
    needed = 0
    for options in clips:
        with arithmetic() as animator:
            render(animator, **options)
            needed = max(needed, animator.session.pool.allocated_bytes)
    with arithmetic(device=SmallDevice(needed)) as animator:
        for options in clips * 2:
            assert len(render(animator, **options)) == 40


def test_a_failed_clip_returns_its_memory(arithmetic: Callable[..., Animator]) -> None:
    """Clips that fail in their pose sequence, and one that runs out of memory."""

    def broken(count: int) -> Iterator[Array]:
        yield from pictures(count)
        raise InputError("a broken picture")

    for windows in ("uniform", "open"):
        device = SmallDevice(10**7)
        with arithmetic(device=device) as animator:
            render(animator, windows=windows)
            allocated = animator.session.pool.allocated_bytes
            for count in (0, 1, 5, 6, 7, 16):
                with pytest.raises(InputError, match="a broken picture"):
                    render(animator, windows=windows, pose=broken(count))
            room, device.room = device.room, 0
            with pytest.raises(OutOfMemory):
                render(animator, reference=pictures(1, 77)[0], pose=pictures(4000), windows="uniform")
            device.room += room
            assert np.array_equal(render(animator, windows=windows), render(animator, windows=windows))
            assert animator.session.pool.allocated_bytes <= allocated * 2


def test_clips_may_be_closed_by_the_garbage_collector(arithmetic: Callable[..., Animator]) -> None:
    """The collector may close abandoned clips at any allocation, even while the pool's lock is held."""

    class Owner:
        def __init__(self, animator: Animator):
            self.clip = animator.animate(pictures(1)[0], POSES, steps=1, progress=self.look)

        def look(self, _progress: Progress) -> None:
            pass

    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        with arithmetic() as animator:
            for _ in range(100):
                next(Owner(animator).clip)
    finally:
        gc.set_threshold(*before)


def test_an_error_that_the_host_has_seen_keeps_the_variables_of_its_frames() -> None:
    """Streams that wait for what failed get the same error later."""

    def fail() -> None:
        raise DeviceError("no")

    def ask() -> None:
        kept = "kept"
        failed.synchronize()
        raise AssertionError(kept)

    device = CPUDevice()
    first, second = device.stream("first"), device.stream("second")
    first.call(fail)
    failed = first.record()
    with pytest.raises(DeviceError, match="no") as caught:
        ask()
    second.wait(failed, needs=True)
    second.call(fail)
    with pytest.raises(DeviceError, match="no") as again:
        second.record().synchronize()
    assert again.value is caught.value
    frames = [frame for frame, _line in walk_tb(caught.value.__traceback__)]
    assert [frame.f_locals.get("kept") for frame in frames if frame.f_code.co_name == "ask"] == ["kept"]
    device.close()


def test_a_device_that_fails_to_activate_blocks_no_later_call(arithmetic: Callable[..., Animator]) -> None:
    class Moody(CPUDevice):
        broken = False

        def activate(self) -> None:
            if self.broken:
                raise DeviceError("not now")

    device = Moody()
    animator = arithmetic(device=device)
    truth = render(animator)
    device.broken = True
    with pytest.raises(DeviceError, match="not now"):
        render(animator)
    device.broken = False
    assert np.array_equal(render(animator), truth)
    device.broken = True
    with pytest.raises(DeviceError, match="not now"):
        animator.close()
    animator.close()
