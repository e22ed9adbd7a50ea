"""Times in videos: joined recordings, timestamps far away, pauses, hints of damage, other rates.

The right value is what the command of ffmpeg shows, with a bound on pauses.
"""

from __future__ import annotations

import itertools
import logging
import random
import shutil
import subprocess
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from animate_rt.runtime.media.pose_sequence import open_pose

from .numbered_frames import number, numbered
from .slow import SLOW

CODECS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "mkv": "libx264",
    "webm": "libvpx",
    "flv": "libx264",
    "ts": "libx264",
    "nut": "mpeg4",
    "avi": "mpeg4",
    "mpg": "mpeg2video",
}
RATE = Fraction(25)


def write(
    path: Path, ticks: Any, rate: Fraction = RATE, first: int = 0, b_frames: int = 0, key_frames: int = 250
) -> Path:
    """Write frames numbered from `first`, modulo 64, at these times in ticks of the rate."""
    with av.open(path, "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.max_b_frames, stream.codec_context.gop_size = b_frames, key_frames
        container.start_encoding()
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_image(numbered((first + index) % 64)).reformat(format="yuv420p")
            frame.pts, frame.time_base = tick, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path: Path, frame_rate: Any = None) -> list[int]:
    return [number(frame) for frame in itertools.islice(open_pose(path, None, frame_rate), 20_000)]


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Each number with how often it is repeated."""
    return [(value, len(list(group))) for value, group in itertools.groupby(numbers)]


# Joined recordings


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("start", [0, 1000, 10, 5_000_000], ids=["same", "40 s later", "overlap", "far"])
def test_joined_transport_streams_keep_every_frame(tmp_path: Path, start: int, b_frames: int) -> None:
    parts = [
        write(tmp_path / "0.ts", range(12), b_frames=b_frames),
        write(tmp_path / "1.ts", range(start, start + 12), first=12, b_frames=b_frames),
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    poses = open_pose(path, None)
    assert poses.frame_rate is not None
    assert abs(poses.frame_rate - RATE) < 0.5
    assert read(path) == list(range(24))


def test_40_joined_recordings_keep_every_frame(tmp_path: Path) -> None:
    rng, path = random.Random(5), tmp_path / "joined.ts"
    for _ in range(40):
        content, count, end, parts = b"", 0, None, rng.randint(2, 4)
        for _ in range(parts):
            start, length = rng.choice([0, 10, 1000, 5_000_000]), rng.randint(6, 16)
            if end is not None and 0 <= start + 1 - end <= 250:  # a pause of up to ten seconds
                continue
            part = write(
                tmp_path / "part.ts",
                range(start, start + length),
                first=count,
                b_frames=rng.choice([0, 1, 2, 3]),
                key_frames=rng.choice([4, 12, 250]),
            )
            content, count, end = content + part.read_bytes(), count + length, start + length
        path.write_bytes(content)
        assert read(path) == list(range(count))


def test_a_pause_between_joined_recordings_is_a_pause(tmp_path: Path) -> None:
    parts = [write(tmp_path / "0.ts", range(12)), write(tmp_path / "1.ts", range(125, 137), first=12)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert runs(read(path)) == [(index, 114 if index == 11 else 1) for index in range(24)]


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mpg"])
def test_other_joined_recordings_keep_every_frame(tmp_path: Path, name: str) -> None:
    parts = [write(tmp_path / f"{part}{name}", range(12), first=12 * part) for part in range(2)]
    (tmp_path / name).write_bytes(b"".join(part.read_bytes() for part in parts))
    assert read(tmp_path / name) == list(range(24))


def test_a_joint_in_the_middle_of_a_group_of_pictures(tmp_path: Path) -> None:
    content = write(tmp_path / "0.ts", range(48), b_frames=2, key_frames=12).read_bytes()
    packets = len(content) // 188
    path = tmp_path / "joined.ts"
    path.write_bytes(content + content[packets // 6 * 188 :])  # ffmpeg shows 91 frames
    numbers = read(path)
    assert 89 <= len(numbers) <= 93
    assert numbers[:44] == list(range(44))
    assert numbers[-40:] == list(range(8, 48))


# Hints of damage


@pytest.mark.parametrize("hint", ["continuity", "error indicator", "repeated packet"])
def test_a_hint_of_damage_is_told_and_not_taken_for_damage(
    tmp_path: Path, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.ts", range(48), b_frames=2)
    content = path.read_bytes()
    packets = [bytearray(content[at : at + 188]) for at in range(0, len(content), 188)]
    video = [at for at, packet in enumerate(packets) if packet[1] & 31 == 1 and packet[2] == 0]
    if hint == "continuity":
        for at in video[20:]:
            packets[at][3] = packets[at][3] & 0xF0 | (packets[at][3] + 5) & 15
    elif hint == "error indicator":
        for at in video[10:30:7]:
            packets[at][1] |= 0x80
    else:
        packets.insert(video[30], bytearray(packets[video[29]]))
    path.write_bytes(b"".join(packets))
    with av.open(path) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    with caplog.at_level(logging.WARNING, "animate_rt.media"):
        assert read(path) == list(range(48))
    assert [
        message for message in caplog.messages if "is damaged, as joined and cut recordings are" in message
    ]


# Timestamps far away


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.ts", "a.flv", "a.nut"])
@pytest.mark.parametrize("gap_s", [100, 40_000])
def test_a_frame_far_away_follows_the_one_before(
    tmp_path: Path, name: str, gap_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    far = 60 + int(gap_s * RATE)
    path = write(tmp_path / name, [*range(60), *range(far, far + 3)])
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "animate_rt.media"):
        poses = open_pose(path, None)
        numbers = [number(frame) for frame in itertools.islice(poses, 1000)]
    if name != "a.flv":  # FFmpeg's muxer of flv gives the frame before the gap its length
        assert numbers == list(range(63))
    assert set(numbers) >= set(range(59))
    assert len(numbers) <= 63
    assert poses.frame_rate == RATE
    assert poses.num_frames is None or abs(poses.num_frames - 63) <= 1
    assert time.monotonic() - began < 5
    if name != "a.ts":  # where ffmpeg leaves out pauses too
        assert [message for message in caplog.messages if "left out a pause of" in message]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.webm"])
def test_during_a_pause_the_last_frame_is_shown(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [*range(20), *range(145, 165)])
    assert runs(read(path)) == [(index, 126 if index == 19 else 1) for index in range(40)]


def test_repeated_frames_take_no_memory(tmp_path: Path) -> None:
    frames = list(open_pose(write(tmp_path / "a.mkv", [*range(5), 1000]), None))
    assert len(frames) == 1001
    assert len({id(frame) for frame in frames}) == 6


def test_a_pause_does_not_lower_the_rate(tmp_path: Path) -> None:
    # The average rate of this file is 4.3, at which most frames would be lost.
    path = write(tmp_path / "a.mp4", [*range(20), *range(220, 240)])
    poses = open_pose(path, None)
    assert poses.frame_rate == RATE
    assert [value for value, _ in runs(read(path))] == list(range(40))
    assert poses.num_frames is not None
    assert abs(poses.num_frames - 240) <= 1


def test_avi_with_b_frames_and_a_pause(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", [*range(12), *range(40, 52)], b_frames=2)
    assert runs(read(path)) == [(index, 29 if index == 11 else 1) for index in range(24)]


# Other rates


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.mpg"])
def test_videos_at_another_rate(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, range(48))
    assert open_pose(path, None, Fraction(25, 2)).frame_rate == Fraction(25, 2)
    assert read(path, Fraction(25, 2)) == list(range(0, 48, 2))
    assert read(path, 5) == list(range(0, 48, 5))
    assert runs(read(path, 50)) == [(index, 2) for index in range(48)]
    assert read(path, 25) == list(range(48))
    assert len(read(path, 24)) == 46
    if name == "a.mp4":
        for rate in (Fraction(25, 2), 5, 50, 25, 24):
            assert open_pose(path, None, rate).num_frames == len(read(path, rate))


def test_every_second_frame_of_a_recording_with_a_pause(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [*range(20), *range(70, 90)])
    assert runs(read(path, Fraction(25, 2)))[8:12] == [(16, 1), (18, 1), (19, 25), (20, 1)]


# Many more of the kind


def script(rng: random.Random) -> tuple[str, Fraction, list[int]]:
    """A random container, frame rate and list of times: drops, pauses, and jumps far ahead."""
    rate, kind = Fraction(rng.choice([10, 12, 24, 25, 30, 50])), rng.choice(["drops", "pauses", "far"])
    suffix = rng.choice(["mp4", "mkv", "mov", "ts", "webm", *([] if kind == "far" else ["avi"])])
    ticks, tick = [], 0
    for _ in range(rng.randint(12, 40)):
        ticks.append(tick)
        tick += 1
        chance = rng.random()
        if kind == "drops" and chance < 0.15:
            tick += rng.randint(1, 3)
        elif kind == "pauses" and chance > 0.95:
            tick += int(rate * rng.uniform(2, 9))
        elif kind == "far" and 0.9 < chance < 0.93:
            tick += int(rate * rng.choice([100, 1000, 40_000]))
    return suffix, rate, ticks


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=SLOW) for seed in range(1, 4))])
def test_50_videos_show_what_their_times_say(tmp_path: Path, seed: int) -> None:
    rng, judge = random.Random(seed), shutil.which("ffmpeg")
    for index in range(50):
        suffix, rate, ticks = script(rng)
        b_frames = rng.choice([0, 2]) if CODECS[suffix] == "libx264" else 0
        path = write(tmp_path / f"{index}.{suffix}", ticks, rate, b_frames=b_frames)
        poses = open_pose(path, None)
        numbers = [number(frame) for frame in itertools.islice(poses, 20_000)]
        # How long each frame is shown, in ticks. A pause that cannot be one is a tick.
        lengths = [after - before for before, after in itertools.pairwise(ticks)] + [1]
        lengths = [length if length <= 10 * rate else 1 for length in lengths]
        assert abs(len(numbers) - sum(lengths)) <= 3, path
        assert [value for value, _ in runs(numbers)] == list(range(len(ticks))), path
        assert poses.frame_rate == rate, path
        if judge and index % 10 == 0 and max(lengths) == max(b - a for a, b in itertools.pairwise(ticks)):
            # Not the last frame: ffmpeg guesses its length.
            shown = [value for value in shown_by_ffmpeg(judge, path) if value != numbers[-1]]
            assert abs(len(numbers) - 1 - len(shown)) <= 3, path


def shown_by_ffmpeg(ffmpeg: str, path: Path) -> list[int]:
    """The numbers of the frames that ffmpeg makes of a video at a constant rate."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(path), "-map", "0:v:0", "-vsync", "cfr"]
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run([*command, *raw], capture_output=True, timeout=60, check=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 48, 96)
    return [int(sum(int(bar) << bit for bit, bar in enumerate(frame[24, 8::16] > 127))) for frame in frames]
