"""The watermark `Pattern`: what it changes, what survives, and how often it is seen where it is not."""

from __future__ import annotations

import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from threading import Thread

import av
import numpy as np
import pytest
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks.label import labeller
from animate_rt.runtime.marks.pattern import Pattern, bits_confidence, pattern, signs
from animate_rt.runtime.marks.watermark import PRODUCT, SURE, THRESHOLD, Payload, chance, right_bits
from animate_rt.runtime.media.picture import Frame
from PIL import Image

from .forks import fork

FRAMES = 8
PAYLOAD = Payload.of("a job")


@pytest.fixture(scope="module")
def clips() -> list[list[Frame]]:
    """Three drawn scenes of 256 x 256, which have no noise that a pattern could hide in."""
    return [[Scene("held-out", seed, 256).frame(i) for i in range(FRAMES)] for seed in range(3)]


@pytest.fixture(scope="module")
def marked(clips: list[list[Frame]]) -> list[list[Frame]]:
    mark = Pattern().marker(256, 256, PAYLOAD)
    return [list(map(mark, clip)) for clip in clips]


def psnr(a: Frame, b: Frame) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def resized(frames: Sequence[Frame], width: int, height: int) -> list[Frame]:
    return [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BILINEAR)) for f in frames]


def h264(frames: Sequence[Frame], crf: int) -> list[Frame]:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", Fraction(24), {"crf": str(crf)})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    with av.open(io.BytesIO(file.getvalue())) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_payload_is_product_and_job() -> None:
    assert (len(PAYLOAD.bits), PAYLOAD.product) == (32, PRODUCT)
    assert Payload.from_bits(PAYLOAD.bits) == PAYLOAD
    assert Payload(job=0x1234, product=0xABCD).bits[:8] == (1, 0, 1, 0, 1, 0, 1, 1)
    assert str(Payload(job=0x12, product=0xABCD)) == "abcd0012"
    assert Payload.of("a job") != Payload.of("another job")
    assert right_bits(Payload(0, PRODUCT ^ 0b101)) == 14


def test_the_chance_of_right_bits_is_that_of_coins() -> None:
    assert chance(0) == 1
    assert chance(16) == 2**-16
    assert chance(15) == 17 * 2**-16


def test_the_signs_never_change() -> None:
    """A file marked by an earlier version must stay readable."""
    digest = hashlib.sha256((signs() > 0).tobytes()).hexdigest()
    assert digest == "db856d903912a7e84bb9f4d4108bbd979e6b81dff801bbb7d1e4631f084b340f"


def test_marks_are_faint(clips: list[list[Frame]], marked: list[list[Frame]]) -> None:
    for plain, with_mark in zip(clips, marked, strict=True):
        assert min(map(psnr, plain, with_mark)) >= 38
        assert np.abs(plain[0].astype(int) - with_mark[0]).max() <= 16


def test_the_same_frame_gives_the_same_bytes(clips: list[list[Frame]], marked: list[list[Frame]]) -> None:
    again = Pattern().marker(256, 256, PAYLOAD)
    before = clips[0][3].copy()
    assert np.array_equal(again(clips[0][3]), marked[0][3])
    assert np.array_equal(clips[0][3], before)
    other = Pattern().marker(256, 256, Payload.of("another job"))
    assert not np.array_equal(other(clips[0][3]), marked[0][3])


CHANGES = {
    "nothing": lambda frames: frames,
    "one frame": lambda frames: frames[5:6],
    "H.264 crf 18": lambda frames: h264(frames, 18),
    "H.264 crf 23": lambda frames: h264(frames, 23),
    "half the size": lambda frames: resized(frames, 128, 128),
    "twice the size": lambda frames: resized(frames, 512, 512),
    "a tenth cropped": lambda frames: [frame[13:-13, 13:-13] for frame in frames[:2]],
    "brighter": lambda frames: [np.clip(frame * 1.2 + 10, 0, 255).astype(np.uint8) for frame in frames],
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_bits_survive(marked: list[list[Frame]], change: str) -> None:
    for frames in marked:
        reading = Pattern().read(CHANGES[change](frames))
        assert reading.found
        assert reading.payload == PAYLOAD


@pytest.mark.parametrize("size", [(64, 96), (128, 128), (512, 768), (720, 128)])
def test_every_size_of_frame_holds_the_bits(size: tuple[int, int]) -> None:
    width, height = size
    ramp = np.linspace(60, 200, width) + np.linspace(-40, 40, height)[:, None]
    frame = np.repeat(ramp[..., None], 3, 2).astype(np.uint8)
    reading = Pattern().read([Pattern().marker(width, height, PAYLOAD)(frame)])
    assert reading.found
    assert reading.payload == PAYLOAD


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (3, 5), (16, 16), (17, 33), (2, 3000), (15, 400)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_frames_that_are_too_small_are_marked_all_the_same(size: tuple[int, int], level: int) -> None:
    """They cannot hold all bits, but are written and looked into like others."""
    width, height = size
    frame = np.full((height, width, 3), level, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        marked = Pattern().marker(width, height, PAYLOAD)(frame)
        reading = Pattern().read([marked])
    assert marked.shape == frame.shape
    assert np.abs(marked.astype(int) - frame).max() <= 16
    assert reading.payload == PAYLOAD or not reading.certain
    label = labeller(width, height)(frame)
    assert label.shape == frame.shape


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_frames_hold_the_bits(level: int) -> None:
    """Half of the pattern is lost, as nothing is darker than black."""
    frame = np.full((256, 256, 3), level, np.uint8)
    reading = Pattern().read(h264([Pattern().marker(256, 256, PAYLOAD)(frame)] * 4, 18))
    assert (reading.certain, reading.payload) == (True, PAYLOAD)


def test_bits_are_stated_only_if_they_are_certain(marked: list[list[Frame]]) -> None:
    """A mark is found in worn frames, whose bits are partly wrong."""
    for frames in marked:
        assert Pattern().read(frames).certain
    changes: list[Callable[[list[Frame]], list[Frame]]] = [
        lambda frames: h264(resized(frames, 128, 128), 23),
        lambda frames: resized(frames, 269, 256),
        lambda frames: h264(frames, 33),
    ]
    readings = [Pattern().read(change(frames)) for change in changes for frames in marked]
    wrong = [reading for reading in readings if reading.found and reading.payload != PAYLOAD]
    assert wrong
    assert not any(reading.certain for reading in wrong)
    assert all(reading.bits_confidence < 0.9 for reading in wrong)


def test_the_confidence_of_bits_is_that_of_their_noise() -> None:
    """Bits of a mark of any strength, with noise of which every value has a standard deviation of 1."""
    chance = np.random.default_rng(0)
    signs = 2 * np.array(PAYLOAD.bits) - 1
    for strength in (1.0, 2.0, 3.0, 4.0):
        values = strength * signs + chance.normal(size=(20_000, 32))
        expected = [bits_confidence(each) for each in values]
        right = (np.sign(values) == signs).all(axis=1)
        assert abs(np.mean(expected) - right.mean()) < 0.05
        certain = np.array(expected) >= SURE
        assert not certain.any() or right[certain].mean() >= SURE - 0.001


def test_pictures_without_the_mark_are_not_taken_for_marked(clips: list[list[Frame]]) -> None:
    chance = np.random.default_rng(0)
    others: list[list[Frame]] = [
        *clips,
        [chance.integers(0, 256, (128, 192, 3), np.uint8)],
        [np.full((64, 64, 3), 128, np.uint8)],
        [np.zeros((64, 64, 3), np.uint8)],
        [np.indices((96, 96)).sum(0)[..., None].repeat(3, 2).astype(np.uint8) * 20],
    ]
    for frames in others:
        reading = Pattern().read(frames)
        assert not reading.found
        assert reading.false_positive_rate > 1e3 * THRESHOLD


def test_a_fork_does_not_stop_a_thread_that_marks(clips: list[list[Frame]]) -> None:
    """The process forks again and again while another thread marks and reads, as in a service."""

    def work() -> None:
        for _ in range(10):
            pattern(512, 512, PAYLOAD)
        Pattern().read(clips[0][:1])

    thread = Thread(target=work, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while thread.is_alive():
        assert time.monotonic() < end
        if not (child := fork()):
            os._exit(0)
        os.waitpid(child, 0)
        thread.join(timeout=0.01)
