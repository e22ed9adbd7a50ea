"""Marks of files: what the writer adds, and what `detect` finds in them afterwards."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from animate_rt import InputError, InputMissing, Marks, Payload, detect, open_writer
from animate_rt.__main__ import main
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks.metadata import GENERATED, XMP_BOX, add_packet, packet, read_metadata
from animate_rt.runtime.media.picture import Frame
from animate_rt.text import one_line
from PIL import Image

from .written_frames import decode

MARKS = Marks(Payload(job=0x1234))


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    scene = Scene("held-out", 4, 256)
    return [scene.frame(index) for index in range(6)]


def write(path: Path, frames: list[Frame], marks: Marks | None = MARKS) -> Path:
    with open_writer(path, 256, 256, 24, marks=marks) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_an_mp4_has_watermark_and_metadata(tmp_path: Path, frames: list[Frame]) -> None:
    found = detect(write(tmp_path / "a.mp4", frames))
    assert found.marked
    assert (found.reading.payload, found.num_frames) == (MARKS.payload, 6)
    assert found.metadata.source_type == GENERATED
    assert "animate-rt detect" in found.metadata.detector
    assert found.signature.state == "none"
    assert len(decode(tmp_path / "a.mp4")) == 6


def test_pngs_have_watermark_and_metadata(tmp_path: Path, frames: list[Frame]) -> None:
    for path in sorted(write(tmp_path / "pngs", frames).iterdir()):
        found = detect(path)
        assert found.reading.payload == MARKS.payload
        assert found.metadata.source_type == GENERATED
        with Image.open(path) as picture:
            assert "trainedAlgorithmicMedia" in picture.info["xmp"].decode()


def test_each_layer_can_be_left_out(tmp_path: Path, frames: list[Frame]) -> None:
    no_watermark = detect(write(tmp_path / "a.mp4", frames, replace(MARKS, watermark=None)))
    assert (no_watermark.reading.found, no_watermark.metadata.source_type) == (False, GENERATED)
    no_metadata = detect(write(tmp_path / "b.mp4", frames, replace(MARKS, metadata=False)))
    assert (no_metadata.reading.found, no_metadata.metadata.source_type) == (True, "")
    neither = detect(write(tmp_path / "c.mp4", frames, replace(MARKS, watermark=None, metadata=False)))
    assert not neither.marked


def test_without_marks_the_writer_adds_nothing(tmp_path: Path, frames: list[Frame]) -> None:
    write(tmp_path / "a", frames, None)
    for path, frame in zip(sorted((tmp_path / "a").iterdir()), frames, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), frame)
    plain = write(tmp_path / "a.mp4", frames, None).read_bytes()
    unmarked = write(tmp_path / "b.mp4", frames, replace(MARKS, watermark=None)).read_bytes()
    assert unmarked == plain + unmarked[len(plain) :]  # the metadata lies after the video


def test_the_same_marks_give_the_same_bytes(tmp_path: Path, frames: list[Frame]) -> None:
    assert write(tmp_path / "a.mp4", frames).read_bytes() == write(tmp_path / "b.mp4", frames).read_bytes()


def test_frames_that_are_marked_already_are_not_marked_again(tmp_path: Path, frames: list[Frame]) -> None:
    mark = MARKS.marker(256, 256)
    one = write(tmp_path / "a.mp4", frames)
    other = write(tmp_path / "b.mp4", list(map(mark, frames)), MARKS.of_marked_frames())
    assert one.read_bytes() == other.read_bytes()


def test_the_label_is_seen_in_its_corner_only(tmp_path: Path, frames: list[Frame]) -> None:
    marks = replace(MARKS, watermark=None, label=True)
    before = frames[0].copy()
    labelled = marks.marker(256, 256)(frames[0])
    changed = np.argwhere((labelled != before).any(axis=2))
    assert np.array_equal(frames[0], before)
    assert changed.min() > 220
    assert labelled[220:, 220:].max() >= 250
    assert np.abs(labelled.astype(int) - before)[220:, 220:].max() > 60
    assert detect(write(tmp_path / "a.mp4", frames, replace(MARKS, label=True))).reading.found


def test_metadata_of_a_picture_is_read_wherever_it_is(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64))
    picture.save(tmp_path / "a.jpg", xmp=packet("pattern-1", 'https://a.example/"?a&b'))
    assert read_metadata(tmp_path / "a.jpg").source_type == GENERATED
    picture.save(tmp_path / "b.png")
    assert read_metadata(tmp_path / "b.png").source_type == ""
    add_packet(tmp_path / "b.png", packet("", "https://a.example"))
    assert read_metadata(tmp_path / "b.png").detector == "https://a.example"
    assert detect(tmp_path / "b.png").marked


def test_text_in_metadata_is_read_as_it_was_written(tmp_path: Path) -> None:
    for detector in ('https://a.example/"?a&b', "<a b='c'>\x01\n&amp;", "\ud800" * 3, "&" * 500):
        content = packet("pattern-1", detector)
        ElementTree.fromstring(content)
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        add_packet(tmp_path / "a.png", content)
        assert read_metadata(tmp_path / "a.png").detector == one_line(detector, 200)


def test_metadata_of_any_size_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        file.write(b"\0\0\0\x18ftypisom\0\0\0\0isom\0\0\0\0")
        for _ in range(200):
            file.write(struct.pack(">I4s", 1_000_024, b"uuid") + XMP_BOX)
            file.seek(1_000_000, os.SEEK_CUR)
        xmp = packet("", "https://a.example")
        file.write(struct.pack(">I4s", 0, b"uuid") + XMP_BOX + xmp)  # to the end of the file
    tracemalloc.start()
    assert read_metadata(path).source_type == GENERATED
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_tiny_videos_and_long_pictures_are_looked_into(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.gif")
    Image.new("RGB", (16, 1_000_000)).save(tmp_path / "b.png")
    with open_writer(tmp_path / "c.mp4", 2, 2, 24) as writer:
        writer.write(np.zeros((2, 2, 3), np.uint8))
    for path in sorted(tmp_path.iterdir()):
        assert not detect(path).marked
    with pytest.raises(InputError, match="found a folder"):
        detect(tmp_path)


def test_a_mark_whose_bits_are_not_certain_is_found_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene("held-out", 0, 256)
    mark = MARKS.marker(256, 256)
    pictures = [Image.fromarray(mark(scene.frame(index))).resize((269, 256)) for index in range(8)]
    found = []
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.png")
        found.append(detect(tmp_path / f"{index}.png"))
    uncertain = next(each for each in found if each.reading.found and not each.reading.certain)
    document = uncertain.document()
    assert document["marked"]
    assert [document["watermark"][name] for name in ("found", "bits", "product", "job")] == [
        True,
        *[None] * 3,
    ]
    assert document["watermark"]["bits_confidence"] < 0.999
    assert main(["detect", uncertain.file]) == 0
    assert "watermark found, but its bits are not certain (" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff\xff" * 8, b"\0" * 4000])
@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom\0\0\0\0isom\0\0\0\0", b""])
def test_damaged_files_are_unreadable(tmp_path: Path, start: bytes, damage: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(start + damage)
    read_metadata(path)
    with pytest.raises(InputError, match=r"a\.mp4"):
        detect(path)
    with pytest.raises(InputMissing):
        detect(tmp_path / "none.mp4")


def test_the_command_tells_marked_from_unmarked_and_unreadable(
    tmp_path: Path, frames: list[Frame], capsys: pytest.CaptureFixture[str]
) -> None:
    marked = str(write(tmp_path / "a.mp4", frames))
    plain = str(write(tmp_path / "b.mp4", frames, None))
    broken = tmp_path / "c.mp4"
    broken.write_bytes(b"no video")
    assert main(["detect", marked]) == 0
    assert main(["detect", marked, plain]) == 1
    capsys.readouterr()
    assert main(["detect", marked, str(broken), plain]) == 2
    out, err = capsys.readouterr()
    one, two, three = map(json.loads, out.splitlines())
    assert (one["marked"], one["watermark"]["job"], one["watermark"]["frames"]) == (True, "1234", 6)
    assert one["watermark"]["confidence"] > 0.999999
    assert (two["code"], three["marked"], three["watermark"]["bits"]) == ("input", False, None)
    assert "a.mp4: marked; watermark " in err
    assert "b.mp4: not marked; no watermark; no C2PA; no metadata" in err
