"""Tracks: commands, job lists and requests of a model that is driven by several; masks; sizes of frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from animate_rt import ConfigError, InputError
from animate_rt.__main__ import main
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import ShapeBucket
from animate_rt.export.checkpoints.checkpoint import load_checkpoint
from animate_rt.runtime.clip.tracks import join
from animate_rt.runtime.media.picture import resize_frame
from animate_rt.runtime.media.pose_sequence import open_pose
from animate_rt.runtime.service.request import ClipRequest
from numpy.typing import NDArray
from PIL import Image

from .conftest import Case

TRACKS = ("depth", "dwpose")
TOLERANCE = 1e-5  # relative to the largest value; the recorded run used other batches


@pytest.fixture(scope="module")
def checkpoint(champ: Case) -> Any:
    return load_checkpoint(champ.checkpoint, champ.inference_config, base=champ.base)


@pytest.fixture(scope="module")
def bundle(champ: Case, bundles: Any) -> Path:
    path: Path = bundles(champ)
    return path


@pytest.fixture(scope="module")
def size(champ: Case) -> ShapeBucket:
    return ShapeBucket(width=champ.width, height=champ.height, window=champ.window)


def guidance(pose: dict[str, Path]) -> list[str]:
    return [part for name, path in pose.items() for part in ("--guidance", f"{name}={path}")]


def test_the_command_makes_a_video_of_the_size_of_the_reference(
    champ: Case, bundle: Path, tmp_path: Path
) -> None:
    """A row or a column is left out if it is odd, as H.264 needs even sizes."""
    odd = tmp_path / "odd.png"
    with Image.open(champ.reference) as picture:
        picture.resize((71, 103)).save(odd)
    command = ["animate", str(bundle), "--reference", str(odd), *guidance(champ.pose), "--steps", "2"]
    preview = ["--contact-sheet", str(tmp_path / "sheet.png"), "--overlay", str(tmp_path / "overlay.mp4")]
    assert main([*command, "--output", str(tmp_path / "clip.mp4"), *preview]) == 0
    with av.open(str(tmp_path / "clip.mp4")) as video:
        sizes = {(frame.width, frame.height) for frame in video.decode(video=0)}
    assert sizes == {(70, 102)}
    with av.open(str(tmp_path / "overlay.mp4")) as video:  # both tracks, and the frame
        assert next(video.decode(video=0)).width == 3 * 70
    assert main([*command, "--output", str(tmp_path / "pngs")]) == 0
    with Image.open(tmp_path / "pngs" / "00000.png") as frame:
        assert frame.size == (71, 103)


def test_a_change_in_one_track_makes_the_shot_again(
    champ: Case, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pose = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in champ.pose.items()}
    command = ["animate", str(bundle), "--reference", str(champ.reference), *guidance(pose), "--steps", "1"]
    command += ["--output", str(tmp_path / "clip.mp4"), "--progress", "json"]
    requests = []
    for changed in (None, None, pose["dwpose"] / "0003.png"):
        if changed:
            Image.new("RGB", (80, 112), "red").save(changed)
        assert main(command) == 0
        capsys.readouterr()
        requests.append(json.loads((tmp_path / "clip.mp4.json").read_text())["digest"])
    assert requests[0] == requests[1] != requests[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--guidance", "depth"], "expected NAME=PATH"),
        (["--guidance", "depth=poses", "--guidance", "depth=poses"], "expected each track once"),
        (["--pose", "poses"], "expected the tracks depth, dwpose, found one pose sequence"),
        (["--driving", "poses"], "expected the tracks depth, dwpose, found one pose sequence"),
    ],
)
def test_wrong_guidance_is_one_line(
    champ: Case,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(champ.pose["depth"], "poses")
    try:
        status: Any = main(
            ["animate", str(bundle), "--reference", str(champ.reference), "--output", "x.mp4", *given]
        )
    except SystemExit as error:
        status = error.code
    assert status in (2, 64)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["poses"]


def test_directories_of_different_lengths_are_refused_before_loading(
    champ: Case, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pose = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in champ.pose.items()}
    (pose["depth"] / "0005.png").unlink()
    command = ["animate", str(bundle), "--reference", str(champ.reference), *guidance(pose)]
    assert main([*command, "--output", str(tmp_path / "clip.mp4")]) == 65
    error = capsys.readouterr().err
    assert "expected tracks of one length, found" in error
    assert "5 in depth" in error
    assert "0%" not in error  # no progress: nothing was loaded


def test_a_job_list_names_the_tracks(
    champ: Case, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"name": "s1", "bundle": str(bundle), "reference": str(champ.reference), "steps": 1}
    pose = {name: str(path) for name, path in champ.pose.items()}
    jobs = tmp_path / "jobs.jsonl"

    def run(keys: dict[str, Any]) -> int:
        jobs.write_text(json.dumps(line | keys) + "\n")
        return main(["shot", str(jobs), "s1", "--output", str(tmp_path / "out")])

    assert run({"guidance": pose}) == 0
    assert (tmp_path / "out" / "s1.mp4").exists()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"guidance": {"depth": pose["depth"]}}, "expected the tracks depth, dwpose, found the tracks depth"),
        ({"guidance": pose | {"depth": "missing"}}, "guidance: depth: expected a video or directory"),
        ({"guidance": pose | {"depth": 3}}, "guidance: depth: expected a path"),
        ({"guidance": pose, "pose": pose["depth"]}, "expected one of"),
        ({"guidance": pose, "align": "none"}, "found guidance; leave them out"),
        ({"pose": pose["depth"]}, "expected the tracks depth, dwpose, found one pose sequence"),
    ]
    for keys, message in wrong:
        assert run(keys) != 0
        assert message in capsys.readouterr().err


def test_a_request_copies_every_track(champ: Case, bundle: Path, tmp_path: Path) -> None:
    pose = {name: path / "0000.png" for name, path in champ.pose.items()}
    line = ClipRequest(reference=champ.reference, guidance=pose).write(tmp_path, "one", bundle)
    assert line["guidance"] == {name: f"guidance_{name}.png" for name in TRACKS}
    for name in TRACKS:
        assert (tmp_path / line["guidance"][name]).read_bytes() == pose[name].read_bytes()
    outside = ClipRequest(reference=champ.reference, guidance={"../x": pose["depth"]})
    (tmp_path / "two").mkdir()
    with pytest.raises(ConfigError, match="expected names of tracks"):
        outside.write(tmp_path / "two", "two", bundle)


def test_inspect_names_the_member_and_its_tracks(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "champ" in out
    assert "depth, dwpose in each frame" in out
    assert open_bundle(bundle).manifest.graphs["pose_guider"].inputs[0].shape == (1, 96, 128, 3)


def test_a_mask_keeps_pixels_of_the_semantic_map(checkpoint: Any, size: ShapeBucket) -> None:
    """A value stays where the mask's value in the same channel is above zero."""
    model = replace(checkpoint.config, pose_tracks=("semantic_map",))
    generator = np.random.default_rng(0)
    semantic = generator.integers(1, 256, (96, 64, 3), np.uint8)
    mask = generator.integers(0, 2, (96, 64, 3), np.uint8) * 7

    def joined(**tracks: NDArray[Any]) -> list[Any]:
        return list(join({name: open_pose([each], None) for name, each in tracks.items()}, model, size))

    (frame,) = joined(mask=mask, semantic_map=semantic)
    assert np.array_equal(np.asarray(frame), np.where(mask > 0, semantic, 0))
    with pytest.raises(InputError, match="a mask of 64x96, the size of the semantic_map, found 64x50"):
        joined(mask=mask[:50], semantic_map=semantic)
    with pytest.raises(ConfigError, match="the tracks semantic_map, mask, found the tracks semantic_map"):
        joined(semantic_map=semantic)


@pytest.mark.parametrize("wanted", [(72, 104), (64, 96), (31, 50), (200, 7), (1, 1)])
def test_frames_are_resized_as_torch_does(wanted: tuple[int, int]) -> None:
    width, height = wanted
    frame = np.random.default_rng(1).uniform(0, 255, (96, 64, 3)).astype(np.float32)
    found = resize_frame(frame, width, height)
    planes = torch.from_numpy(frame).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear")
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-3
    assert found.shape == (height, width, 3)
