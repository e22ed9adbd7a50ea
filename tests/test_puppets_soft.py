"""What swings and lives in the puppet world depends on the frames before, and old scenes have not changed."""

from __future__ import annotations

import hashlib

import numpy as np
from animate_rt.benchmarks.puppets.world.lively import LIDS, Lively
from animate_rt.benchmarks.puppets.world.motion import Body, Build, pose
from animate_rt.benchmarks.puppets.world.scene import HISTORIES, Scene
from animate_rt.benchmarks.puppets.world.soft import WARM_UP, Soft, hanging, resting, softened


def test_scenes_without_soft_parts_are_as_they_were_before_there_were_any() -> None:
    """The hash was taken from the revision before; figures measured on these scenes stay comparable."""
    pictures = hashlib.sha256()
    for split in ("train", "held-out"):
        for seed in range(6):
            scene = Scene(split, seed)
            for picture in (scene.reference(), scene.frame(0), scene.frame(9), scene.pose(9)):
                pictures.update(picture.tobytes())
    assert pictures.hexdigest() == "34710e6ce60a5b7f755d8389c86298f57a9612bd820ae20fecec07ec614e3ceb"
    assert not Scene("held-out", 0).open(3).any()


def test_a_seed_always_gives_the_same_soft_scene_whichever_frames_are_drawn_first() -> None:
    forwards, backwards = Scene("train-soft", 3), Scene("train-soft", 3)
    frames = [forwards.frame(i) for i in range(8)]
    again = [backwards.frame(i) for i in reversed(range(8))]
    assert np.array_equal(frames, again[::-1])
    assert np.array_equal(forwards.reference(), backwards.reference())
    other = Scene("held-out-soft", 3)
    assert other.character != forwards.character
    assert not np.array_equal(other.frame(0), frames[0])


def test_soft_parts_depend_on_the_frames_before() -> None:
    """The same pose gives the same pixels with the same history, and many others with another one."""
    opened = []
    for seed in range(12):
        scene = Scene("train-soft", seed)
        true = scene.frame(6)
        assert np.array_equal(scene.frame(6, 6), true)
        differing = [(scene.frame(6, 6 + offset) != true).any() for offset in HISTORIES]
        assert all(differing), seed
        opened.append((scene.open(6) & scene.mask(6)).sum() / scene.mask(6).sum())
    assert np.median(opened) > 0.2
    assert np.max(opened) < 0.8  # the rest follows from pose and reference


def body_of(build: Build, x: float) -> Body:
    still = pose(build, {}, 0.0)
    return still._replace(joints={name: joint + np.array([x, 0, 0]) for name, joint in still.joints.items()})


def test_strands_lag_behind_a_body_that_starts_and_swing_on_after_it_stops() -> None:
    character = softened(Scene("train", 0).character, np.random.default_rng(0))

    def place(time: float) -> float:
        """Still, then in ten frames 0.2 to the right, then still again."""
        return 0.02 * float(np.clip(time, 0, 10))

    soft = Soft(character, lambda time: body_of(character.build, place(time)))
    ends = [soft.at(i).hair[0, -1, 0] for i in range(90)]
    assert abs(soft.at(-1).hair).max() < 1e-9  # where the body has been still, strands hang at rest
    assert ends[3] < -0.02  # behind
    assert max(ends[10:25]) > 0.02  # beyond
    assert abs(soft.at(89).hair).max() < 0.005  # at rest again
    roots = soft.at(5).hair[:, 0]
    assert abs(roots).max() < 1e-9  # on the body


def test_strands_keep_their_lengths_in_every_pose() -> None:
    scene = Scene("train-soft", 1)
    for frame, history in ((4, 4), (4, -9)):
        body = scene.body(frame)
        rest = resting(scene.character, body)
        hung = hanging(scene.character, body, scene.soft.at(history))
        for a, b in zip(rest, hung, strict=True):
            lengths = [np.linalg.norm(np.diff(points, axis=1), axis=2) for points in (a, b)]
            np.testing.assert_allclose(*lengths, atol=1e-9)


def test_eyes_blink_now_and_then_and_pattern_and_shadow_come_to_rest() -> None:
    build = Scene("train", 0).character.build

    def body_at(time: float) -> Body:
        return body_of(build, 0.02 * min(time, 0.0))

    lively = Lively(body_at, np.random.default_rng(0))
    lids = np.array([lively.at(i).lids for i in range(-WARM_UP, 400)])
    closing = np.flatnonzero((lids[1:] > 0) & (lids[:-1] == 0)) + 1
    assert 400 / 35 < len(closing) < 400 / 8
    for start in closing[:-1]:
        assert tuple(lids[start : start + len(LIDS)]) == LIDS
    moving, resting = lively.at(0), lively.at(60)
    assert moving.slide[0] < -0.02
    assert moving.shadow[0] < -0.02
    assert abs(resting.slide).max() < 1e-4
    assert abs(resting.shadow).max() < 1e-4
