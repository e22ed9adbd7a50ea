"""Hostile files, as inputs of a clip and as files in which marks are looked for. The server goes on then."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks.marks import Marks
from animate_rt.runtime.marks.watermark import Payload
from animate_rt.runtime.media.writer import open_writer
from animate_rt.runtime.service import Limits
from animate_rt.runtime.service.http.uploads import UploadLimits

from .certificates import write_certificate
from .serving import Form, Served, enduring, error_of, unharmed

LIMITS = UploadLimits(video_bytes=4 << 20)
FRAMES, CHECK_S = 60, 20.0


@pytest.fixture(scope="module")
def served(small_bundle: Path, form: Form) -> Iterator[Served]:
    with enduring(small_bundle, form, LIMITS, Limits(frames=FRAMES, check_s=CHECK_S)) as served:
        yield served


@pytest.fixture(autouse=True)
def client(served: Served) -> Iterator[httpx.Client]:
    with unharmed(served) as client:
        yield client


def detect(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post("/v1/detect", files={"file": ("x", content)})


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG that says it has this size, with so many rows of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(rows * (1 + 3 * width)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def mp4(folder: Path, frames: int, **false: int) -> bytes:
    """An mp4 of black frames. `false`: bytes of a box to replace, by the box's name, such as stsz=VALUE."""
    path = folder / "poses.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 30, {"preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        picture = np.zeros((64, 64, 3), np.uint8)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    for box, value in false.items():
        place = content.index(box.encode()) + 4 + 4 + (4 if box == "stsz" else 0)
        content[place : place + 4] = struct.pack(">I", value)
    return bytes(content)


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (0, 0), (1, 60_000)])
@pytest.mark.parametrize("field", ["picture", "pose"])
def test_picture_bombs(client: httpx.Client, form: Form, field: str, width: int, height: int) -> None:
    began = time.monotonic()
    bomb = png(width, height, rows=min(height, 20) if width < 60_000 else 0)
    error_of(client.post("/v1/videos", **form(**{field: bomb})), 422)
    error_of(detect(client, bomb), 422)
    assert time.monotonic() - began < CHECK_S


@pytest.mark.parametrize(
    "false", [{}, {"stsz": 2**31 - 1}, {"stsz": 2**32 - 1}, {"stts": 2**32 - 1}, {"stco": 2**32 - 1}]
)
def test_videos_with_too_many_frames_or_false_sizes(
    client: httpx.Client, form: Form, tmp_path: Path, false: dict[str, int]
) -> None:
    began = time.monotonic()
    video = mp4(tmp_path, FRAMES + 1, **false)
    error_of(client.post("/v1/videos", **form(pose=video)), 422)
    answer = detect(client, video)  # a detector looks into some frames only, whatever the file says
    assert answer.status_code == 422 or answer.json()["marked"] is False
    assert time.monotonic() - began < CHECK_S + 5


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("pose", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n"),
        ("driving", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("pose", b"%!PS\n(x) show\n"),
        ("keypoints", b"[" * 200_000),
        ("keypoints", json.dumps({"people": [{"pose_keypoints_2d": [1e308] * 75}] * 9}).encode()),
        ("keypoints", b"PK\x03\x04" + bytes(500)),
        ("keypoints", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        ("pose", b"\x00" * 1000),
        ("driving", b""),
    ],
)
def test_files_that_are_something_else(client: httpx.Client, form: Form, kind: str, content: bytes) -> None:
    error = error_of(client.post("/v1/videos", **form(pose=content, control_type=kind)), 422)
    assert "/etc" not in error["message"]
    error_of(detect(client, content), 422)


def signed(folder: Path) -> list[bytes]:
    """An mp4 and a PNG with all marks."""
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    from animate_rt.runtime.marks.credentials import Credentials

    chain, key, _loaded = write_certificate(folder)
    scene = Scene("held-out", 4, 128)
    for name in ("clip.mp4", "frames"):
        marks = Marks(Payload(7), credentials=Credentials.read(chain, key))
        with open_writer(folder / name, 128, 128, 24, marks=marks) as writer:
            writer.write(scene.frame(0))
    return [(folder / name).read_bytes() for name in ("clip.mp4", "frames/00000.png")]


def test_damaged_signatures(client: httpx.Client, tmp_path: Path) -> None:
    """Whatever is changed in a signed file: an answer, and no valid signature.

    Zeros are left as they are: some only fill the C2PA box, and are not signed.
    """
    chance = np.random.default_rng(5)
    for content in signed(tmp_path):
        assert detect(client, content).json()["c2pa"]["state"] == "valid"
        for number in range(24):
            changed = bytearray(content)
            at = int(chance.choice(np.flatnonzero(np.frombuffer(content, np.uint8))))
            if number % 3 == 0:
                del changed[at:]
            elif number % 3 == 1:
                changed[at] ^= 1 << int(chance.integers(8))
            else:
                changed[at : at + 4] = b"\xff" * min(4, len(content) - at)
            answer = detect(client, bytes(changed))
            assert answer.status_code in (200, 422), answer.text
            if answer.status_code == 200:
                assert answer.json()["c2pa"]["state"] != "valid"


@pytest.mark.parametrize("size", [0, 7, 8, 2**31, 2**32 - 1])
def test_boxes_of_false_sizes(client: httpx.Client, tmp_path: Path, size: int) -> None:
    """Boxes of metadata and signatures that are empty or endless."""
    video = mp4(tmp_path, 2)
    for kind in (b"uuid", b"jumb", b"free"):
        for extra in (b"", bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), bytes(5000)):
            answer = detect(client, video + struct.pack(">I4s", size, kind) + extra)
            assert answer.status_code in (200, 422), answer.text


def test_many_boxes(client: httpx.Client, tmp_path: Path) -> None:
    """However long a reader takes over them, the answer comes within the limit of a check."""
    video = mp4(tmp_path, 2)
    began = time.monotonic()
    many = detect(client, video + struct.pack(">I4s", 8, b"free") * 200_000)
    assert many.status_code in (200, 422), many.text
    assert time.monotonic() - began < CHECK_S + 5
