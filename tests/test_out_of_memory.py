"""A device that is full: what gives way, what is tried again, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, DeviceError, OutOfMemory
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.device import Buffer, Device

from .arithmetic import ArithmeticContext, ArithmeticEngine
from .clips import pictures, render
from .small_device import SmallDevice


def test_unused_references_give_way(arithmetic: Callable[..., Animator]) -> None:
    """Others than those of clips in progress, and only if free buffers are not enough."""
    with arithmetic() as animator:
        truth = [render(animator, reference=picture) for picture in pictures(3)]
        needed = animator.session.pool.allocated_bytes
    with arithmetic(device=(device := SmallDevice(2 * needed))) as animator:
        references = animator.references
        for _ in range(2):
            for picture, frames in zip(pictures(3), truth, strict=True):
                assert np.array_equal(render(animator, reference=picture), frames)
        assert len(references.entries) == 3
        clip = animator.animate(pictures(1)[0], pictures(17), steps=4)
        frames = [next(clip)]
        with pytest.raises(ZeroDivisionError):
            animator.session.pool.with_room(lambda: 1 // 0)  # other errors release nothing
        device.room = 0
        assert len(render(animator, pose=pictures(2))) == 2  # with free buffers
        assert len(references.entries) == 4
        animator.session.pool.with_room(FullOnce("", "").fail)  # nothing is free any more
        device.room = 0
        new = pictures(1, 5)[0]
        assert len(render(animator, reference=new, pose=pictures(2))) == 2
        assert len(references.entries) == 2  # the one in use, and the new one
        assert np.array_equal(np.stack([*frames, *clip]), truth[0])


class FullOnce:
    """`load` for an animator: at first there is no memory for the engine of `graph`, or for its context."""

    def __init__(self, graph: str, where: str, times: int = 1):
        self.graph, self.where, self.times = graph, where, times

    def __call__(self, bundle: Any, graph: str, device: Device) -> ArithmeticEngine:
        engine = ArithmeticEngine(bundle, graph, device)
        if graph == self.graph:
            if self.where == "load":
                self.fail()
            else:
                context = engine.context
                engine.context = lambda workspace: self.fail() or context(workspace)  # type: ignore[method-assign]
        return engine

    def fail(self) -> None:
        self.times -= 1
        if self.times >= 0:
            raise OutOfMemory("no room on the device")


@pytest.mark.parametrize("where", ["load", "context"])
def test_a_full_device_is_emptied_before_an_engine_is_refused(
    arithmetic: Callable[..., Animator], where: str
) -> None:
    with arithmetic() as animator:
        render(animator)
        truth = render(animator, guidance_scale=1.0)
    for times, kept in ((1, 2), (2, 1)):  # references are forgotten only if free buffers are not enough
        load = FullOnce("denoising_unet_conditional", where, times)
        with arithmetic(load=load, device=(device := SmallDevice())) as animator:
            for picture in (pictures(1)[0], pictures(1, 9)[0]):
                render(animator, reference=picture)
            free = animator.session.pool.free[False].free_bytes
            assert free > 0
            del device.released[:]
            assert np.array_equal(render(animator, guidance_scale=1.0), truth)
            assert device.released
            assert len(animator.references.entries) == kept
    with arithmetic(load=FullOnce("denoising_unet_conditional", where, 9)) as animator:
        with pytest.raises(OutOfMemory, match="no room on the device"):
            render(animator, guidance_scale=1.0)
        assert animator.session.pool.free[False].free_bytes >= 0
        render(animator)


class NeedsWorkspace(ArithmeticEngine):
    """An engine that needs a workspace, the guided UNet a larger one."""

    def __init__(self, bundle: Any, graph: str, device: Device):
        super().__init__(bundle, graph, device)
        self.activation_bytes = {"denoising_unet": 5000, "denoising_unet_conditional": 3000}.get(graph, 1000)

    def context(self, workspace: Buffer | None) -> ArithmeticContext:
        assert workspace is not None
        assert workspace.num_bytes >= self.activation_bytes
        return super().context(workspace)


def test_a_workspace_that_grows_is_given_back(arithmetic: Callable[..., Animator]) -> None:
    """Also while a clip is in progress, which goes on in the new one."""
    with arithmetic() as animator:
        truth = render(animator, guidance_scale=1.0)
    with arithmetic(load=NeedsWorkspace, device=(device := SmallDevice())) as animator:
        clip = animator.animate(pictures(1, 9)[0], pictures(17), steps=4, guidance_scale=1.0)
        frames = [next(clip)]
        pool, (stream,) = animator.session.pool, animator.session.denoise
        (plain,) = stream.bound_engines.values()
        old, context = stream.workspace, plain.context
        render(animator)
        assert stream.workspace is not None
        assert stream.workspace.num_bytes == 5000
        assert next(iter(stream.bound_engines.values())) is plain
        assert plain.context is not context
        assert (id(old) in pool.free[False].by_age) or (3000,) in device.released
        assert device.allocated.count((5000,)) == 1
        assert np.array_equal(np.stack([*frames, *clip]), truth)


def test_a_workspace_that_cannot_grow_changes_nothing(arithmetic: Callable[..., Animator]) -> None:
    with arithmetic(load=NeedsWorkspace, device=(device := SmallDevice())) as animator:
        truth = render(animator, guidance_scale=1.0)
        device.room = -(1 << 40)
        with pytest.raises(OutOfMemory, match=r"no room for uint8 \(5000,\)"):
            render(animator, pose=pictures(1), steps=1)
        device.room = 1 << 40
        assert np.array_equal(render(animator, guidance_scale=1.0), truth)
        render(animator)


def test_the_cpu_refuses_what_it_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux would grant it, and end the process later."""
    device = CPUDevice()
    assert device.free_bytes() > 1 << 24
    with pytest.raises(
        OutOfMemory, match=r"no room for uint8 .*: expected 115\d+ MB, found \d+ MB free; use"
    ):
        device.buffer("uint8", (1 << 60,))
    monkeypatch.setattr(CPUDevice, "free_bytes", lambda _self: 10_000_000)
    with pytest.raises(OutOfMemory, match=r"float32 \(5000000,\): expected 20 MB, found 10 MB free"):
        device.host_buffer("float32", (5_000_000,))
    device.buffer("uint8", (1000,))


def test_a_stream_without_room_says_so() -> None:
    device = CPUDevice()
    stream = device.stream("denoise 0")

    def full() -> None:
        raise MemoryError

    stream.call(full)
    with pytest.raises(OutOfMemory, match="denoise 0: no room in memory; use a smaller size") as caught:
        stream.record().synchronize()
    assert isinstance(caught.value, DeviceError)
    device.close()
