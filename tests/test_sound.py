"""Sound: the audio of a video in the mp4 of a clip, in sync and as long as its frames."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.runtime.media.sound import Sound
from animate_rt.runtime.media.writer import open_writer

from .damage import peak_bytes, reset_peak

RATE, SECONDS = 48_000, 4
CLICK = 2.0  # seconds after the first frame


def make_source(
    path: Path, codec: str, *, delay: float = 0, rate: int = RATE, video: str = "mpeg4", jump: int = 0
) -> Path:
    """A video of four seconds with a tone that begins two seconds after its first frame.

    With `delay`, the audio begins so many seconds after the video. With `jump`, all times after the first
    second are so many seconds too late.
    """
    time = np.arange(int(rate * (SECONDS - delay))) / rate + delay
    tone = (0.8 * np.sin(2 * np.pi * 1000 * time) * (time >= CLICK)).astype(np.float32)
    with av.open(path, "w") as container:
        pictures: Any = container.add_stream(video, 25)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        audio: Any = container.add_stream(codec, rate=rate, layout="mono", bit_rate=128_000)
        size = 1024
        for i in range(25 * SECONDS):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i, np.uint8))
            frame.pts, frame.time_base = i + (25 * jump if i >= 25 else 0), Fraction(1, 25)
            container.mux(pictures.encode(frame.reformat(format="yuv420p")))
        resampler = av.AudioResampler(audio.format, "mono", rate, audio.codec_context.frame_size or size)
        parts: list[Any] = []
        for start in range(0, len(tone), size):
            part = av.AudioFrame.from_ndarray(tone[None, start : start + size], "flt", "mono")
            part.sample_rate, part.pts, part.time_base = rate, start + round(delay * rate), Fraction(1, rate)
            parts += resampler.resample(part)
        parts += resampler.resample(None)
        packets = [packet for part in (*parts, None) for packet in audio.encode(part)]
        for packet in packets:
            if packet.pts * packet.time_base >= 1:
                packet.pts = packet.dts = packet.pts + round(jump / packet.time_base)
            container.mux(packet)
        container.mux(pictures.encode())
    return path


def write(path: Path, sound: Sound | None, num_frames: int, rate: int) -> Path:
    with open_writer(path, 64, 64, rate, sound) as writer:
        for _ in range(num_frames):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    return path


def heard(path: Path) -> tuple[float, float, float]:
    """When the tone begins, when the audio ends, and when the video ends, in seconds."""
    with av.open(path) as container:
        (audio,) = container.streams.audio
        (video,) = container.streams.video
        begins, ends = None, 0.0
        for frame in container.decode(audio):
            samples = frame.to_ndarray()
            samples = samples.astype(np.float64).reshape(-1, 1 if frame.format.is_planar else 2)[:, 0]
            loud = np.flatnonzero(np.abs(samples[: frame.samples]) > 0.2)
            if begins is None and len(loud):
                begins = frame.time + loud[0] / frame.sample_rate
            ends = frame.time + frame.samples / frame.sample_rate
        assert begins is not None
        assert video.duration
        assert video.time_base
        return begins, ends, float(video.duration * video.time_base)


SOURCES = [
    ("aac.mp4", "aac", "aac"),
    ("mp3.mkv", "libmp3lame", "mp3"),
    ("opus.webm", "libopus", "aac"),
    ("pcm.mov", "pcm_s16le", "aac"),
    ("aac.ts", "aac", "aac"),
    ("mp3.avi", "libmp3lame", "aac"),
    ("mp2.ts", "mp2", "aac"),  # FFmpeg decodes it to another format than it tells before
    ("wma.asf", "wmav2", "aac"),  # some frames have no time
]


@pytest.mark.parametrize(("name", "codec", "written"), SOURCES, ids=[name for name, *_ in SOURCES])
@pytest.mark.parametrize(
    ("start", "num_frames", "rate"), [("0", 100, 25), ("1", 50, 25), ("1.32", 90, 60), ("0", 60, 24)]
)
def test_sound_is_in_sync_and_as_long_as_the_frames(
    tmp_path: Path, name: str, codec: str, written: str, start: str, num_frames: int, rate: int
) -> None:
    source = make_source(tmp_path / name, codec, video="libvpx" if name.endswith("webm") else "mpeg4")
    result = write(tmp_path / "out.mp4", Sound(str(source), Fraction(start)), num_frames, rate)
    begins, ends, video_ends = heard(result)
    # MP3 has a delay of its own, less than a frame at 25 frames per second, which AVI does not tell.
    assert begins == pytest.approx(CLICK - float(start), abs=1 / rate if "mp3" not in name else 0.04)
    assert video_ends == pytest.approx(num_frames / rate, abs=1e-3)
    assert ends == pytest.approx(video_ends, abs=1 / min(rate, 40))
    with av.open(result) as container:
        assert container.streams.audio[0].codec_context.name.startswith(written)


def test_packets_are_copied_without_a_change(tmp_path: Path) -> None:
    def packets(path: Path) -> list[bytes]:
        with av.open(path) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    source = make_source(tmp_path / "in.mp4", "aac")
    result = write(tmp_path / "out.mp4", Sound(str(source)), 100, 25)
    assert packets(result) == packets(source)[: len(packets(result))]


def test_sound_that_begins_late_stays_late(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in.mp4", "aac", delay=0.5)
    assert heard(write(tmp_path / "out.mp4", Sound(str(source)), 100, 25))[0] == pytest.approx(
        CLICK, abs=0.03
    )


@pytest.mark.parametrize(
    ("name", "codec"), [("aac.mp4", "aac"), ("aac.mkv", "aac"), ("pcm.mkv", "pcm_s16le"), ("mp2.ts", "mp2")]
)
def test_sound_far_away_follows_what_is_before(tmp_path: Path, name: str, codec: str) -> None:
    source, before = make_source(tmp_path / name, codec, jump=40_000), reset_peak()
    begins, ends, _ = heard(write(tmp_path / "out.mp4", Sound(str(source)), 100, 25))
    assert begins == pytest.approx(CLICK, abs=0.05)
    assert ends == pytest.approx(SECONDS, abs=0.05)
    assert peak_bytes() - before < 200e6


def test_joined_recordings_keep_their_sound(tmp_path: Path) -> None:
    content = make_source(tmp_path / "one.ts", "aac").read_bytes()
    (tmp_path / "joined.ts").write_bytes(content + content)
    result = write(tmp_path / "out.mp4", Sound(str(tmp_path / "joined.ts"), Fraction(9, 2)), 75, 25)
    assert heard(result)[0] == pytest.approx(SECONDS + CLICK - 4.5, abs=0.1)


def test_low_sample_rates_are_encoded_again(tmp_path: Path) -> None:
    """A packet of 8 kHz lasts longer than a frame."""
    source = make_source(tmp_path / "in.mp4", "aac", rate=8000)
    begins, ends, video_ends = heard(write(tmp_path / "out.mp4", Sound(str(source), Fraction("1.3")), 50, 25))
    assert begins == pytest.approx(CLICK - 1.3, abs=0.04)
    assert ends == pytest.approx(video_ends, abs=0.04)


def test_a_clip_longer_than_its_sound_ends_in_silence(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in.mp4", "aac")
    _, ends, video_ends = heard(write(tmp_path / "out.mp4", Sound(str(source), Fraction(1)), 125, 25))
    assert ends == pytest.approx(SECONDS - 1, abs=0.05)
    assert video_ends == pytest.approx(5, abs=1e-3)


def test_a_video_without_sound(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4", None, 10, 25)
    assert not Sound(str(silent)).exists()
    result = write(tmp_path / "out.mp4", Sound(str(silent)), 10, 25)
    with av.open(result) as container:
        assert not container.streams.audio
        assert container.streams.video[0].frames == 10


def test_damaged_sound_does_not_stop_the_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_source(tmp_path / "in.mkv", "flac")
    data = bytearray(source.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    source.write_bytes(data)
    with caplog.at_level(logging.WARNING, "animate_rt"):
        result = write(tmp_path / "out.mp4", Sound(str(source)), 100, 25)
    with av.open(result) as container:
        assert container.streams.video[0].frames == 100


def test_the_same_frames_and_sound_give_the_same_bytes(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "aac"), ("b.mkv", "flac")):
        sound = Sound(str(make_source(tmp_path / name, codec)))
        results = [write(tmp_path / f"{name}.{i}.mp4", sound, 30, 25).read_bytes() for i in range(2)]
        assert results[0] == results[1]
