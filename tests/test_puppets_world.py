"""The puppet world: scenes from seeds, pictures that agree with keypoints."""

from __future__ import annotations

import numpy as np
from animate_rt.benchmarks.puppets.training.model import SIZE
from animate_rt.benchmarks.puppets.world.drawing import Canvas
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.benchmarks.puppets.world.skeleton import COLOURS, KEYPOINTS, draw_skeleton


def test_a_seed_always_gives_the_same_pictures() -> None:
    once, again = Scene("train", 3), Scene("train", 3)
    assert np.array_equal(once.reference(), again.reference())
    assert np.array_equal(once.frame(5), again.frame(5))
    assert np.array_equal(once.pose(5), again.pose(5))


def test_splits_share_no_scene() -> None:
    trained = {Scene("train", seed).character for seed in range(200)}
    assert len(trained) == 200
    assert trained.isdisjoint(Scene("held-out", seed).character for seed in range(200))


def test_a_scene_moves_and_its_background_does_not() -> None:
    scene = Scene("train", 1)
    frames = np.stack([scene.frame(i) for i in range(0, 12, 3)]).astype(int)
    moved = (frames != frames[0]).any(axis=(0, 3))
    assert 0.02 < moved.mean() < 0.6
    assert not moved[:5].any()


def test_neighbouring_frames_are_close() -> None:
    for seed in range(30):
        scene = Scene("train", seed)
        points = np.stack([scene.keypoints(i)[:, :2] for i in range(24)])
        assert np.abs(np.diff(points, axis=0)).max() < 0.12


def test_a_skeleton_is_drawn_where_its_keypoints_are() -> None:
    keypoints = np.zeros((18, 3), np.float32)
    keypoints[:, 0] = 0.1 + 0.045 * np.arange(18)
    keypoints[:, 1] = 0.1 + 0.04 * (np.arange(18) * 7 % 18)
    keypoints[:, 2] = 1
    keypoints[7, 2] = 0
    picture = draw_skeleton(keypoints, 256)
    for i, (x, y) in enumerate((keypoints[:, :2] * 256).astype(int)):
        shown = np.abs(picture[y, x].astype(int) - COLOURS[i]).max() <= 8
        assert shown == (i != 7), KEYPOINTS[i]
    assert not draw_skeleton(np.zeros((18, 3), np.float32), 64).any()


def test_hands_are_at_the_wrists() -> None:
    """Where a wrist is beside the body, the colour at its keypoint is that of the skin or glove."""
    found = 0
    for seed in range(60):
        scene = Scene("train", seed)
        points, look = scene.keypoints(0), scene.character
        wrist = points[KEYPOINTS.index("right_wrist")]
        if abs(wrist[0] - points[KEYPOINTS.index("neck"), 0]) < 0.15 or look.sleeve > 1:
            continue
        x, y = (wrist[:2] * SIZE).astype(int)
        expected = np.array(look.skin if look.gloves is None else look.gloves) * 255
        colour = scene.frame(0)[y, x] / max(float(scene.frame(0)[y, x].max()), 1)
        others = [look.skin, look.gloves or look.skin]
        ratios = [np.abs(colour - np.array(shade) / max(shade)).max() for shade in others]
        assert min(ratios) < 0.15, (seed, expected)
        found += 1
    assert found > 10


def test_a_mask_holds_the_character_and_clothes_hold_their_colours() -> None:
    for seed in range(8):
        scene = Scene("held-out", seed)
        frame, mask, (top, bottom) = scene.frame(0), scene.mask(0), scene.clothes(0)
        empty = Canvas(scene.background.copy()).as_bytes()
        changed = (frame != empty).any(axis=2)
        assert (changed[mask]).mean() > 0.98
        assert 0.02 < mask.mean() < changed.mean()  # a shadow changes pixels, too
        assert mask[top | bottom].mean() > 0.98
        assert not (top & bottom).any()
        assert top.sum() > 200
        if scene.character.top.pattern == "plain" and scene.character.emblem is None:
            shade = np.median(frame[top] / max(float(frame[top].max()), 1), axis=0)
            wanted = np.array(scene.character.top.colour)
            assert np.abs(shade / shade.max() - wanted / wanted.max()).max() < 0.15
