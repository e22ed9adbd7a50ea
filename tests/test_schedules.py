"""When operations run must not matter: orders, streams, delays, clips at once, clips that are abandoned."""

from __future__ import annotations

import gc
import random
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise, product
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, DeviceError, InputError, OutOfMemory, Progress, Rejected
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import DType
from animate_rt.engines.cpu import CPUDevice, CPUStream
from animate_rt.engines.device import Array, Buffer, Event
from animate_rt.engines.engine import load_engine
from animate_rt.runtime.operations import Issuer, Operation

from .arithmetic import ArithmeticEngine, FreeEngine
from .hazards import NotingDevice, NotingStream, hazards

POSES = list(np.zeros((2, 96, 64, 3), np.uint8))
SHAPES = [("uniform", "step-major"), ("open", "step-major"), ("open", "time-skewed")]


class DelayedStream(CPUStream):
    """Sleeps for a random while before anything it does."""

    def __init__(self, name: str, opened_s: float, chance: random.Random, longest_s: float):
        self.chance, self.longest_s = chance, longest_s
        super().__init__(name, opened_s)

    def call(self, function: Callable[[], object]) -> None:
        delay = self.chance.random() ** 4 * self.longest_s  # mostly short
        super().call(lambda: sleep(delay))
        super().call(function)


class DelayedDevice(CPUDevice):
    def __init__(self, seed: int, longest_s: float):
        super().__init__()
        self.chance, self.longest_s = random.Random(seed), longest_s

    def stream(self, name: str) -> CPUStream:
        stream = DelayedStream(name, self.opened_s, self.chance, self.longest_s)
        self.streams.add(stream)
        return stream


def pictures(count: int, seed: int = 0) -> list[Array]:
    chance = np.random.default_rng(seed)
    return list(chance.integers(0, 256, (count, 96, 64, 3), np.uint8))


def render(animator: Animator, **changed: Any) -> Array:
    options: dict[str, Any] = {"reference": pictures(1, 9)[0], "pose": pictures(17), "steps": 4} | changed
    return np.stack(list(animator.animate(**options)))


@pytest.fixture
def arithmetic(small_bundle: Path) -> Callable[..., Animator]:
    """`arithmetic(...)`: an animator whose engines are arithmetic and cost nothing."""
    bundle = open_bundle(small_bundle)
    return lambda **options: Animator(bundle, **{"load": ArithmeticEngine} | options)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_orders_and_streams_do_not_change_a_bit(bundle: Path, case: Any, guidance_scale: float) -> None:
    """The real engines of both recorded models."""
    chance = np.random.default_rng(0)
    options = {
        "pose": list(chance.integers(0, 256, (case.window + 5, case.height, case.width, 3), np.uint8)),
        "steps": 2,
        "overlap": case.window // 2 + 1,
        "guidance_scale": guidance_scale,
    }
    found: dict[str, list[Array]] = {}
    for num_streams in (1, 2, 3):
        with Animator.load(bundle, denoise_streams=num_streams) as animator:
            for windows, order in SHAPES:
                found.setdefault(windows, []).append(
                    render(animator, windows=windows, order=order, **options)
                )
    for first, *others in found.values():
        assert all(np.array_equal(first, other) for other in others)


def test_200_random_schedules_give_the_same_bits(arithmetic: Callable[..., Animator]) -> None:
    chance = random.Random(0)
    with arithmetic() as animator:
        truth = {windows: render(animator, windows=windows) for windows in ("uniform", "open")}
    assert not np.array_equal(*truth.values())
    for seed in range(200):
        windows, order = SHAPES[seed % len(SHAPES)]
        log: list[Operation] = []
        device = DelayedDevice(seed, chance.choice([0.0005, 0.001, 0.005]))
        with arithmetic(device=device, denoise_streams=1 + seed % 4, observe=log.append) as animator:
            assert np.array_equal(render(animator, windows=windows, order=order), truth[windows]), seed
        assert not hazards(log), seed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_200_random_schedules_of_the_real_engines(small_bundle: Path) -> None:
    with Animator.load(small_bundle) as animator:
        truth = {windows: render(animator, windows=windows) for windows in ("uniform", "open")}
    for seed in range(200):
        windows, order = SHAPES[seed % len(SHAPES)]
        with Animator(
            open_bundle(small_bundle), device=DelayedDevice(seed, 0.005), denoise_streams=1 + seed % 3
        ) as animator:
            assert np.array_equal(render(animator, windows=windows, order=order), truth[windows]), seed


def test_no_hazard_in_any_order_and_shape(arithmetic: Callable[..., Animator]) -> None:
    """In what operations declare, and in what streams are really asked to do."""
    for num_streams, (windows, order) in product((1, 2, 3), SHAPES):
        device, log = NotingDevice(), []

        def observe(operation: Operation, log: list[Operation] = log, device: NotingDevice = device) -> None:
            log.append(operation)
            device.note_host(operation)

        with arithmetic(denoise_streams=num_streams, observe=observe, device=device) as animator:
            for frames, steps, overlap in product((1, 5, 6, 7, 13, 20), (1, 3), (0, 2, 5)):
                options = {"steps": steps, "overlap": overlap, "windows": windows, "order": order}
                assert len(render(animator, pose=pictures(frames), **options)) == frames
        assert len(log) > 1000
        assert len(device.calls) > len(log)
        assert not hazards(log)
        assert not hazards(device.calls)


@pytest.mark.parametrize(("windows", "order"), SHAPES)
def test_an_event_that_is_missing_is_found(
    arithmetic: Callable[..., Animator], windows: str, order: str
) -> None:
    """Waits between streams are left out one by one. What others imply does no harm; all else is found."""
    log: list[Operation] = []
    with arithmetic(denoise_streams=2, observe=log.append) as animator:
        render(animator, pose=pictures(13), steps=2, windows=windows, order=order)
    streams = {operation.ended: operation.stream for operation in log}
    found: Counter[str] = Counter()
    for i in range(len(log)):
        for event in log[i].waits:
            if streams[event] is not log[i].stream:
                waits = tuple(other for other in log[i].waits if other is not event)
                without = [*log[:i], log[i]._replace(waits=waits), *log[i + 1 :]]
                if hazards(without):
                    found[log[i].name] += 1
                else:
                    log = without  # so that of two waits that imply each other one is left
    for name in ("gather", "vae_decoder", "copy out", "host"):
        assert found[name] > 0, name
    assert not hazards(log)


@pytest.mark.parametrize("mistake", ["no wait", "readers forgotten", "a write not declared"])
def test_a_mistake_that_is_really_made_is_found(
    arithmetic: Callable[..., Animator], monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    issue, wait = Issuer.issue, NotingStream.wait

    def careless(self: Issuer, name: str, *arguments: Any, **named: Any) -> Event:
        if mistake == "readers forgotten" and name == "vae_decoder":
            for buffer in named["writes"]:
                buffer.owner.readers.clear()
        if mistake == "a write not declared" and name == "update":
            named["writes"] = []
        return issue(self, name, *arguments, **named)

    def idle(self: NotingStream, event: Event, *, needs: bool) -> None:
        if mistake != "no wait" or self.name != "decode":
            wait(self, event, needs=needs)

    device = NotingDevice()
    with arithmetic(device=device, observe=device.note_host, denoise_streams=2) as animator:
        monkeypatch.setattr(Issuer, "issue", careless)
        monkeypatch.setattr(NotingStream, "wait", idle)
        render(animator)
    assert hazards(device.calls)


def spans(operations: list[Operation], name: str) -> list[tuple[float, float]]:
    return [(o.began.time_s, o.ended.time_s) for o in operations if o.name == name and o.began and o.ended]


def overlap_s(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in one for c, d in other)


def test_frames_are_decoded_while_later_windows_are_denoised(
    small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[Operation] = []
    with Animator.load(small_bundle, observe=log.append) as animator:
        render(animator, pose=pictures(60), windows="open", overlap=2)
        before = len(log)
        render(animator, pose=pictures(60), windows="open", overlap=2)
    assert not hazards(log)
    decoding = spans(log[before:], "vae_decoder")
    share = overlap_s(decoding, spans(log[before:], "denoising_unet")) / sum(b - a for a, b in decoding)
    with capsys.disabled():
        print(f"\n{share:.0%} of decoding while a window is denoised")
    assert share > 0.2


def test_the_next_clip_is_prepared_while_this_one_is_denoised(small_bundle: Path) -> None:
    """Reference and pose features of another clip, asked for in another thread once this one denoises."""
    log: list[Operation] = []
    with Animator.load(small_bundle, observe=log.append) as animator:
        render(animator)
        before = len(log)
        denoising = threading.Event()

        def seen(progress: Progress) -> None:
            if progress.stage == "denoise" and progress.done:
                denoising.set()

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(render, animator, pose=pictures(40), steps=8, progress=seen)
            assert denoising.wait(60)
            render(animator, reference=pictures(1, 33)[0])
            first.result()
    assert not hazards(log)
    denoised = spans(log[before:], "denoising_unet")
    prepared = spans(log[before:], "reference_net") + spans(log[before:], "pose_guider")[40:]
    assert overlap_s(denoised, prepared) > 0


def test_clips_of_several_threads_interleave_and_do_not_mix(arithmetic: Callable[..., Animator]) -> None:
    jobs: list[dict[str, Any]] = [
        {"seed": 1, "steps": 6},
        {"seed": 2, "pose": pictures(23, 3), "windows": "open"},
        {"reference": pictures(1, 4)[0], "guidance_scale": 1.0},
        {"pose": pictures(3, 5)},
    ]
    with arithmetic() as animator:
        alone = [render(animator, **job) for job in jobs]
    log: list[Operation] = []
    with (
        arithmetic(device=DelayedDevice(0, 0.002), observe=log.append) as animator,
        ThreadPoolExecutor(len(jobs)) as pool,
    ):
        together = list(pool.map(lambda job: render(animator, **job), jobs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not hazards(log)
    turns = [operation.reads for operation in log if operation.name == "gather"]
    clips = [reads[0].owner for reads in turns]  # its time rows tell a clip
    assert len(set(clips)) == len(jobs)
    assert sum(a is not b for a, b in pairwise(clips)) > len(jobs)


def test_a_second_clip_allocates_nothing(arithmetic: Callable[..., Animator]) -> None:
    for windows, order in SHAPES:
        with arithmetic(denoise_streams=2) as animator:
            render(animator, windows=windows, order=order)
            allocated = animator.pool.allocated_bytes
            render(animator, windows=windows, order=order, pose=pictures(17, 5), seed=3)
            assert animator.pool.allocated_bytes == allocated > 0


def test_an_abandoned_clip_gives_everything_back_and_leaves_others_alone(
    arithmetic: Callable[..., Animator],
) -> None:
    with arithmetic(device=DelayedDevice(0, 0.002)) as animator:
        truth = render(animator)
        allocated = animator.pool.allocated_bytes
        for taken in (0, 1, 3):
            clip = animator.animate(pictures(1, 9)[0], pictures(17, 8), steps=4)
            other = animator.animate(pictures(1, 9)[0], pictures(17), steps=4)
            for _ in range(taken):
                next(clip)
            clip.close()
            assert np.array_equal(np.stack(list(other)), truth)
        assert animator.pool.allocated_bytes == allocated
        assert not any(entry.borrowers for entry in animator.references.entries.values())


def test_poses_may_come_from_an_endless_stream(arithmetic: Callable[..., Animator]) -> None:
    read = 0

    def endless() -> Iterator[Array]:
        nonlocal read
        for picture in chain.from_iterable(pictures(5, seed) for seed in range(10**9)):
            read += 1
            yield picture

    with arithmetic() as animator:
        clip = animator.animate(pictures(1)[0], endless(), steps=4, windows="open", overlap=2)
        first = [next(clip) for _ in range(20)]
        clip.close()
        assert read < 60
        poses = [picture for seed in range(20) for picture in pictures(5, seed)]
        whole = render(animator, reference=pictures(1)[0], pose=poses, windows="open", overlap=2)
        assert np.array_equal(np.stack(first), whole[:20])


class FailingOnce:
    """`load` for an animator: the engines of `load`, one of which fails at one of its runs."""

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
            raise DeviceError("the device has had enough")


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
def test_a_failure_on_the_device_is_raised_once_and_harms_no_other_clip(
    arithmetic: Callable[..., Animator], graph: str, run: int, observed: bool
) -> None:
    for windows in ("uniform", "open"):
        with arithmetic() as animator:
            truth = render(animator, windows=windows)
        observe = (lambda _operation: None) if observed else None
        with arithmetic(load=FailingOnce(ArithmeticEngine, graph, run), observe=observe) as animator:
            clip = animator.animate(pictures(1, 9)[0], pictures(17), steps=4, windows=windows)
            made: list[Array] = []
            with pytest.raises(DeviceError, match="had enough"):
                made.extend(clip)
            assert all(np.array_equal(a, b) for a, b in zip(made, truth, strict=False))
            for _ in range(2):
                assert np.array_equal(render(animator, windows=windows), truth)


def test_closing_while_a_clip_is_made(arithmetic: Callable[..., Animator]) -> None:
    animator = arithmetic(device=DelayedDevice(0, 0.01))
    clip = animator.animate(pictures(1)[0], pictures(40), steps=4, windows="open")
    next(clip)
    animator.close()
    with pytest.raises(Rejected, match="found it closed"):
        list(clip)
    animator.close()


def test_time_outside_engines(
    arithmetic: Callable[..., Animator], capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar: 200 microseconds of the host's time per window and step."""
    with arithmetic(load=FreeEngine) as animator:
        for _ in range(2):  # the first one allocates
            times = []

            def tick(progress: Progress, times: list[float] = times) -> None:
                if progress.stage == "denoise":
                    times.append(perf_counter())

            clip = animator.animate(pictures(1)[0], pictures(60), steps=20, overlap=2, progress=tick)
            next(clip)
            clip.close()
    per_task = [(after - before) * 1e6 for before, after in pairwise(times)]
    median = statistics.median(per_task)
    with capsys.disabled():
        print(f"\nhost time per window and step: median {median:.0f} microseconds, n = {len(per_task)}")
    assert median <= 200


def test_a_run_of_openvinos_that_is_left_out_leaves_the_next_clip_right(small_bundle: Path) -> None:
    """Bindings are the worker's: what it did not come to do must not count as done."""
    bundle = open_bundle(small_bundle)
    with Animator(bundle) as animator:
        truth = render(animator, reference=pictures(1, 5)[0])
    with Animator(bundle, load=FailingOnce(load_engine, "pose_guider", 3)) as animator:
        with pytest.raises(DeviceError, match="had enough"):
            render(animator)
        assert np.array_equal(render(animator, reference=pictures(1, 5)[0]), truth)


def test_frames_that_wait_to_be_taken_go_with_the_animator(arithmetic: Callable[..., Animator]) -> None:
    animator = arithmetic()
    clip = animator.animate(pictures(1)[0], pictures(6), steps=1)
    next(clip)
    animator.close()
    with pytest.raises(Rejected, match="found it closed"):
        next(clip)
    assert not animator.pool.free


class SmallDevice(CPUDevice):
    """Has room for so many bytes."""

    def __init__(self, num_bytes: int):
        super().__init__()
        self.room = num_bytes

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        buffer = super().buffer(dtype, shape)
        if buffer.num_bytes > self.room:
            raise OutOfMemory(f"no room for {buffer.num_bytes} bytes")
        self.room -= buffer.num_bytes
        return buffer

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        return CPUDevice().host_buffer(dtype, shape)

    def release(self, buffer: Buffer) -> None:
        self.room += buffer.num_bytes


def test_memory_of_other_shapes_gives_way(arithmetic: Callable[..., Animator]) -> None:
    clips = [{"overlap": overlap, "pose": pictures(40)} for overlap in (4, 0, 1, 2, 3, 5)]
    needed = 0
    for options in clips:
        with arithmetic() as animator:
            render(animator, **options)
            needed = max(needed, animator.pool.allocated_bytes)
    with arithmetic(device=SmallDevice(needed)) as animator:
        for options in clips * 2:
            assert len(render(animator, **options)) == 40


def test_nothing_is_lost_where_a_clip_fails(arithmetic: Callable[..., Animator]) -> None:
    """In its pose sequence, in its progress, for want of memory: whatever it took comes back."""

    def broken(count: int) -> Iterator[Array]:
        yield from pictures(count)
        raise InputError("a broken picture")

    for windows in ("uniform", "open"):
        device = SmallDevice(10**7)
        with arithmetic(device=device) as animator:
            render(animator, windows=windows)
            allocated = animator.pool.allocated_bytes
            for count in (0, 1, 5, 6, 7, 16):
                with pytest.raises(InputError, match="a broken picture"):
                    render(animator, windows=windows, pose=broken(count))
            room, device.room = device.room, 0
            with pytest.raises(OutOfMemory):
                render(animator, reference=pictures(1, 77)[0], pose=pictures(4000), windows="uniform")
            device.room += room
            assert np.array_equal(render(animator, windows=windows), render(animator, windows=windows))
            assert animator.pool.allocated_bytes <= allocated * 2


def test_a_collector_that_closes_clips_anywhere(arithmetic: Callable[..., Animator]) -> None:
    """Abandoned clips in cycles are closed wherever memory is asked for, even with the pool's lock held."""

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


def test_a_device_that_cannot_be_activated_holds_up_nobody(arithmetic: Callable[..., Animator]) -> None:
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
