"""Skeletons against the pixels that OpenCV drew for the same people (recorded by record_pose_drawing.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from animate_rt import ConfigError, InputError
from animate_rt.engines.model import PoseStyle
from animate_rt.runtime.media.pose_sequence import open_pose
from animate_rt.runtime.poses.drawing import BONES, by_length, draw, draw_all, pose_pictures, sizes
from animate_rt.runtime.poses.keypoints import FACE, LEFT_HAND, RIGHT_HAND, Keypoints, Pose
from PIL import Image

from .damage import thread_cpu_s
from .drawn_people import COUNT, Person, person, standing

DATA = Path(__file__).parent / "data" / "poses"
STYLES: tuple[PoseStyle, ...] = ("dwpose", "musepose")


def differing(style: PoseStyle, numbers: range) -> list[int]:
    """The numbers of people whose pictures are not the recorded ones."""
    recorded = (DATA / f"{style}.sha256").read_bytes()
    assert len(recorded) == COUNT * 32
    wrong = []
    for number in numbers:
        picture = draw(*person(number), style)
        digest = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
        if digest != recorded[number * 32 :][:32]:
            wrong.append(number)
    return wrong


@pytest.mark.parametrize(("style", "count"), [("dwpose", 600), ("musepose", 240)])
def test_people_agree_with_opencv_in_every_pixel(style: PoseStyle, count: int) -> None:
    assert differing(style, range(count)) == []


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_all_recorded_people_agree_with_opencv_in_every_pixel(style: PoseStyle) -> None:
    assert differing(style, range(COUNT)) == []


@pytest.mark.parametrize("path", sorted(DATA.glob("*.png")), ids=lambda path: path.stem)
def test_whole_pictures_are_those_of_opencv(path: Path) -> None:
    style, _, who = path.stem.partition("-")
    someone = Person(standing(512, 768), 512, 768) if who == "standing" else person(int(who))
    picture = draw(*someone, style)  # type: ignore[arg-type]
    with Image.open(path) as recorded:
        assert np.count_nonzero((picture != np.asarray(recorded)).any(axis=2)) == 0


def test_the_recorded_people_have_hand_lines_of_every_width() -> None:
    found = set()
    for number in range(160):
        pose, width, height = person(number)
        pixels = pose[:, :2] * (1024 / min(width, height))
        for hand in (LEFT_HAND, RIGHT_HAND):
            ends = pixels[hand][BONES][(pose[hand, 2] > 0.3)[BONES].all(axis=1)]
            found |= set(by_length(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)).tolist())
    assert found == set(range(1, 9))


def test_only_dwpose_draws_the_face() -> None:
    pose = np.zeros((128, 3))
    pose[FACE] = standing(512, 512)[FACE]
    assert (draw(pose, 512, 512, "dwpose") == 255).all(axis=2).any()
    assert not draw(pose, 512, 512, "musepose").any()


def test_thresholds_of_scores() -> None:
    """A body point needs more than 0.3, a point of a hand or the face at least 0.3."""
    for part, score, drawn in ((0, 0.3, False), (0, 0.31, True), (20, 0.3, True), (20, 0.29, False)):
        pose = np.zeros((128, 3))
        pose[part] = 200, 200, score
        assert draw(pose, 512, 512, "dwpose").any() == drawn


@pytest.mark.parametrize(
    ("width", "height", "dwpose", "musepose"),
    [
        (512, 768, (512, 768), (768, 1152)),
        (1920, 1080, (896, 512), (1344, 768)),
        (500, 333, (768, 512), (1152, 768)),
        (100, 106, (512, 512), (768, 832)),
        (1, 1, (512, 512), (768, 768)),
    ],
)
def test_sizes_are_those_of_the_tools(
    width: int, height: int, dwpose: tuple[int, int], musepose: tuple[int, int]
) -> None:
    assert sizes(width, height, "dwpose")[1] == dwpose
    assert sizes(width, height, "musepose")[1] == musepose


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("far", [1e5, 1e8, 1e12, 1e300, -1e300])
def test_points_far_outside_do_no_harm(style: PoseStyle, far: float) -> None:
    pose = standing(512, 512)
    pose[[4, 10, 30, 50, 100], :2] = far, 300
    began = thread_cpu_s()
    picture = draw(pose, 512, 512, style)
    assert thread_cpu_s() - began < 2
    pose[[4, 10, 30, 50, 100]] = 0
    rest = draw(pose, 512, 512, style)
    assert (picture[rest.any(axis=2)] != 0).any(axis=1).all()


@pytest.mark.parametrize(("width", "height"), [(0, 512), (512, -1), (16, 2_000_000), (10**400, 10**400)])
def test_a_picture_of_impossible_size_is_refused(width: int, height: int) -> None:
    with pytest.raises(InputError, match=r"^keypoints: expected a picture .* found [^\n]*$"):
        draw(standing(512, 512), width, height, "dwpose")


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^pose style: expected dwpose or musepose, found rain$"):
        draw_all(iter([]), 512, 512, "rain")  # type: ignore[arg-type]


def test_a_repeated_frame_shares_its_picture_and_frames_are_read_one_by_one() -> None:
    first, second, read = standing(512, 512), standing(512, 512) * 0.5, []

    def frames() -> Iterator[Pose]:
        for frame in (first, first, second, first):
            read.append(frame)
            yield frame

    pictures = draw_all(frames(), 512, 512, "dwpose")
    assert not read
    a, b = next(pictures), next(pictures)
    assert len(read) == 2
    assert a is b
    c, d = pictures
    assert c != a
    assert d == a
    assert np.array_equal(np.asarray(a), draw(first, 512, 512, "dwpose"))


def test_keypoints_as_a_pose_sequence() -> None:
    poses = np.stack([standing(320, 480), standing(320, 480) * (1, 0.9, 1), np.zeros((128, 3))])
    keypoints = Keypoints(poses, 320, 480, Fraction(25))
    sequence = open_pose(pose_pictures(keypoints, "musepose"), 2)  # type: ignore[arg-type]
    assert (sequence.frame_rate, sequence.num_frames) == (25, 2)
    for _ in range(2):
        pictures = list(sequence)
        assert [picture.size for picture in pictures] == [(768, 1152)] * 2
        assert np.array_equal(np.asarray(pictures[1]), draw(poses[1], 320, 480, "musepose"))
    assert not draw(poses[2], 320, 480, "musepose").any()


def test_the_time_of_drawing_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for style in STYLES:
        frames = [standing(512, 768) + i / 100 for i in range(60)]
        began = thread_cpu_s()
        assert sum(1 for _ in draw_all(frames, 512, 768, style)) == 60
        with capsys.disabled():
            print(f"\n{style}: {(thread_cpu_s() - began) / 60 * 1000:.1f} ms per whole person")
