"""Keypoint files that are broken, hostile or something else give one clear line, within bounds."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt.errors import InputError, InputMissing
from animate_rt.runtime.poses.formats import arrays, document
from animate_rt.runtime.poses.formats.reading import read_keypoints
from animate_rt.runtime.poses.formats.writing import write_keypoints
from animate_rt.runtime.poses.keypoints import NUM_POINTS, Keypoints

from .damage import damaged, peak_bytes, refusal, reset_peak, thread_cpu_s
from .keypoint_truth import HEIGHT, WIDTH, truth

FILES = Path(__file__).parent / "data" / "poses" / "formats"
SIZE = WIDTH, HEIGHT
BODY = [1.0, 2.0, 0.5] * 18
COCO = {"image_id": 0, "keypoints": [3.0, 4.0, 0.5] * 17}


def people(*each: Any, **frame: Any) -> dict[str, Any]:
    return {"people": list(each), **frame}


def body(numbers: Any) -> dict[str, Any]:
    return people({"pose_keypoints_2d": numbers})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("", "expected OpenPose's .* JSON, .* found something else"),
        ("hello", "found something else"),
        ("[]", "found an empty list"),
        ("[1, 2]", "expected OpenPose's .*, found 1"),
        ("{", "expected JSON of keypoints, cannot read it: "),
        ("[" * 100_000, "nested too deeply"),
        (f"[{'9' * 5000}]", "cannot read it"),
        (b'{"people": "\xff"}', "it is not text"),
        ({"name": "hero", "steps": 20}, "expected OpenPose's"),
        (people(), "expected people, found none in 1 frames"),
        ({"people": {"0": 1}}, "frame 0: people: expected a list of people"),
        (people(7), "frame 0, person 0: expected an object, found 7"),
        (people(*[{}] * 65), "expected at most 64 people, found 65"),
        (body("x"), "pose_keypoints_2d: expected a list of numbers, found x"),
        (body(BODY[:-1]), "pose_keypoints_2d: expected 54 or 75 numbers, found 53"),
        (body([*BODY[:-1], None]), "pose_keypoints_2d: expected numbers, found None"),
        (body([*BODY[:-1], True]), "expected numbers, found True"),
        (body([*BODY[:-1], "0.5"]), "expected numbers, found 0.5"),
        (body([10**400, *BODY[1:]]), "expected numbers up to 1000000, found larger ones"),
        (body([float("inf"), *BODY[1:]]), "expected coordinates up to 1000000, found inf"),
        (body([2e6, *BODY[1:]]), r"expected coordinates up to 1000000, found 2e\+06"),
        (body([[1, 2, 3], [1]]), "expected lists of equal length"),
        (people({"hand_left_keypoints_2d": [1.0] * 60}), "left_keypoints_2d: expected 63 numbers, found 60"),
        ([people({"pose_keypoints_2d": BODY}), 5], "frame 1: expected an object, found 5"),
        (people(canvas_width=-4, canvas_height=7), "canvas: expected a width .* 1 to 32768, found -4"),
        (people(canvas_width=4), "found None"),
        ([people(canvas_width=w, canvas_height=9) for w in (8, 9)], "frames of one size, found 8x9 and 9x9"),
        (people(frame_rate="30/0"), "expected a frame rate like 30000/1001, found 30/0"),
        ([people(frame_rate=rate) for rate in ("25/1", "30/1")], "expected the same in all frames"),
        ([COCO, {**COCO, "image_id": 200_000}], "found the numbers 0 to 200000"),
        ([COCO, {**COCO, "image_id": "cat.jpg"}], "entry 1: expected a frame's number .*, found cat.jpg"),
        ([COCO, {**COCO, "keypoints": []}], "entry 1: expected keypoints, found none"),
        ([{**COCO, "keypoints": [1.0] * 40}], "keypoints: expected .*51.*, found 40"),
        ([{**COCO, "keypoint_scores": [1]}], "entry 0: keypoints: expected 17 scores, found 1"),
        ([{"frame_id": 0, "instances": 3}], "instances: expected a list of people, found 3"),
        ([{"keypoints": [[[1, 2]] * 17], "scores": []}], "expected scores of 1 people"),
        ({"annotations": [3]}, "annotations: expected an object"),
        ({"poseLandmarks": [{"x": 0.5, "y": 0.5}] * 32}, "expected 33 points, found 32 points"),
        ({"poseLandmarks": [{"x": 0.5}] * 33}, "pose landmarks: expected numbers, found None"),
        ({"poseLandmarks": [[0.5, 0.5, 0.1]] * 33}, "x, y, z and visibility, found 3 numbers"),
        ({"faceLandmarks": [{"x": 0, "y": 0}] * 400}, "face landmarks: expected 468 or 478 points"),
    ],
)  # fmt: skip
def test_a_broken_document_is_refused_in_one_line(found: Any, message: str, tmp_path: Path) -> None:
    content = json.dumps(found) if isinstance(found, dict | list) else found
    (tmp_path / "file").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_keypoints(tmp_path / "file", size=SIZE)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/file: ")
    assert text.isprintable()
    assert len(text) < 800


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="nothing there; check the path"):
        read_keypoints(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot read these keypoints"):
        read_keypoints("a\0b")
    with pytest.raises(InputError, match="expected a regular file"):
        read_keypoints("/dev/null")
    with pytest.raises(InputError, match="expected a folder of JSON files"):
        read_keypoints(tmp_path)
    (tmp_path / "1.json").write_text(json.dumps([people({"pose_keypoints_2d": BODY})] * 2))
    with pytest.raises(InputError, match=r"1\.json: expected one frame, found 2"):
        read_keypoints(tmp_path)


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


def test_pickled_arrays_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("echomimic.npy", np.array({"bodies": Trap()}, dtype=object), allow_pickle=True)
    Path("plain.npy").write_bytes(pickle.dumps(Trap()))
    np.savez("archive.npz", frames=np.array([Trap()]), size=np.array([4, 4]), frame_rate=np.array(""))
    for name in "echomimic.npy", "plain.npy", "archive.npz":
        with pytest.raises(InputError, match="found pickled Python objects, which could run any code"):
            read_keypoints(name, size=SIZE)
    assert not Path("it-ran").exists()


def test_arrays_of_every_layout(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    for shape in ((2, 17, 2), (2, 1, 133, 3), (2, 136, 3), (2, 33, 4), (2, NUM_POINTS, 3), (2, 134, 2)):
        np.save(file, np.random.default_rng(1).uniform(50, 400, shape).astype(np.float32))
        assert read_keypoints(file, size=SIZE).frames[:, 0].all(), shape
    np.save(file, truth()[None])
    np.testing.assert_allclose(read_keypoints(file, size=SIZE).frames, truth()[None])
    np.save(file, np.asfortranarray(truth()[None] / (*SIZE, 1)))
    np.testing.assert_allclose(read_keypoints(file, size=SIZE).frames, truth()[None])
    for shape in ((2, 33, 3), (2, 19, 3), (17,), (2, 3, 4, 17, 3)):
        np.save(file, np.ones(shape))
        with pytest.raises(InputError, match=r"expected an array \(frames, points, 3\)"):
            read_keypoints(file, size=SIZE)
    np.save(file, np.full((1, 17, 3), "x"))
    with pytest.raises(InputError, match="expected an array of numbers"):
        read_keypoints(file, size=SIZE)


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": (10**9, 17, 3), "fortran_order": False, "descr": "<f8"}
    )
    (tmp_path / "a.npy").write_bytes(file.getvalue() + bytes(800))
    with pytest.raises(InputError, match="does not have the size it states"):
        read_keypoints(tmp_path / "a.npy", size=SIZE)
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("frames.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(arrays.MAX_ARRAY // 2**20 + 2):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match="expected at most 307300000 bytes"):
        read_keypoints(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("poses.npy", b"")
    with pytest.raises(InputError, match=r"found one without frames\.npy"):
        read_keypoints(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "filler", ["{},", "[],", '{"a":[{}]},', "1.5,", '{"people":[]},', '"\\u00e9",', '{"people":[{}]},']
)
def test_a_large_document_of_anything_takes_bounded_time_and_memory(filler: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(f"[{filler * (3_000_000 // len(filler))}1]")
    held, began = reset_peak(), thread_cpu_s()
    assert refusal(lambda: read_keypoints(path, size=SIZE))
    assert thread_cpu_s() - began < 5
    assert peak_bytes() - held < 0.3e9
    with path.open("r+b") as file:
        file.truncate(document.MAX_BYTES + 1)
    assert "at most 128 MiB of JSON" in (refusal(lambda: read_keypoints(path)) or "")


def sources() -> list[bytes]:
    written = []
    for frames in np.stack([truth(), truth(1)]), truth()[None]:
        stream = io.BytesIO()
        np.save(stream, frames)
        written.append(stream.getvalue())
    files = [file for file in FILES.rglob("*.json") if file.stat().st_size < 20_000]
    return [*(file.read_bytes() for file in files), *written]


def changed(value: Any, rng: random.Random) -> Any:
    """A document with one of its parts replaced, removed or repeated."""
    strange: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        10**400,
        float("nan"),
        "x",
        "\u202e\n",
        [],
        {},
        [[]],
        [{}],
    ]
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(strange)
    copy = value.copy()
    key = rng.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
    how = rng.random()
    if how < 0.15:
        del copy[key]
    elif how < 0.25 and isinstance(copy, list):
        copy *= rng.choice([2, 3, 70])
    else:
        copy[key] = changed(copy[key], rng)
    return copy


def test_changed_files_never_raise_anything_but_an_input_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    npz = tmp_path / "keypoints.npz"
    write_keypoints(npz, Keypoints(np.stack([truth(), truth(1)]), WIDTH, HEIGHT))
    originals = [*sources(), npz.read_bytes()]
    path, refused, times = tmp_path / "file", 0, []
    for number in range(700):
        content = originals[number % len(originals)]
        if content.startswith((b"{", b"[")) and rng.random() < 0.7:
            content = json.dumps(changed(json.loads(content), rng)).encode()
        else:
            content = damaged(content, rng)
        path.write_bytes(content)
        began = thread_cpu_s()
        message = refusal(lambda: read_keypoints(path, size=SIZE))
        times.append(thread_cpu_s() - began)
        if message is not None:
            refused += 1
            assert message.isprintable(), message
            assert len(message) < 800
    assert 200 < refused < 650  # both happen
    assert max(times) < 10
