"""The list of consented references, as a policy and as a command; policies by name."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from animate_rt import ConfigError, InputError, Refused
from animate_rt.__main__ import main
from animate_rt.benchmarks.puppets.world.character import Character
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks import consent
from animate_rt.runtime.marks.consent import NEAR, ConsentList, difference, likeness_of
from animate_rt.runtime.marks.policy import Policy, load_policy, picture_digest
from animate_rt.runtime.media.picture import Frame, read_picture
from PIL import Image

from .fetched import PHOTOGRAPHS, fetched

PEOPLE = [Scene("held-out", seed, 128).frame(0) for seed in range(12)]


def read(path: Path) -> Frame:
    return np.asarray(read_picture(path))


def test_only_listed_references_are_accepted(tmp_path: Path) -> None:
    policy = ConsentList(tmp_path / "list")
    with pytest.raises(Refused) as refusal:
        policy.check_reference(PEOPLE[0], {})
    assert (refusal.value.code, refusal.value.exit_status) == ("content_policy", 77)
    assert picture_digest(PEOPLE[0])[:12] in str(refusal.value)
    policy.add(PEOPLE[0], "Ada")
    policy.check_reference(PEOPLE[0], {})
    policy.check_frames(PEOPLE)
    for other in PEOPLE[1:]:
        with pytest.raises(Refused):
            policy.check_reference(other, {})


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 50": lambda picture: encoded(picture, "JPEG", quality=50),
    "WebP 75": lambda picture: encoded(picture, "WEBP", quality=75),
    "twice the size": lambda picture: picture.resize((512, 512)),
    "half the size": lambda picture: picture.resize((128, 128)),
    "a third smaller, JPEG 75": lambda picture: encoded(picture.resize((170, 170)), "JPEG", quality=75),
    "transparent": lambda picture: encoded(picture.convert("RGBA"), "PNG"),
}


def encoded(picture: Image.Image, name: str, **options: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, name, **options)
    return Image.open(file)


def accepted(policy: ConsentList, picture: Frame) -> bool:
    try:
        policy.check_reference(picture, {})
    except Refused:
        return False
    return True


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_a_reference_are_accepted(tmp_path: Path, copy: str) -> None:
    policy = ConsentList(tmp_path / "list")
    for seed in range(6):
        picture = Image.fromarray(Scene("held-out", seed, 256).frame(0))
        policy.add(np.asarray(picture), "Ada")
        assert accepted(policy, np.asarray(read_picture(COPIES[copy](picture))))


def test_other_people_in_the_same_place_and_pose_are_not_accepted(tmp_path: Path) -> None:
    """Most of these pictures is the same: the background and, in the second half, body and clothes."""
    others = [Character.random(np.random.default_rng([9, number])) for number in range(100)]
    for seed in range(4):
        scene = Scene("held-out", seed, 256)
        listed = scene.character
        policy = ConsentList(tmp_path / f"list {seed}")
        policy.add(scene.frame(0), "Ada")
        for other in others:
            scene.character = replace(other, build=listed.build)
            assert not accepted(policy, scene.frame(0))
            if other.skin != listed.skin:
                scene.character = replace(listed, skin=other.skin, hair=other.hair, cut=other.cut)
                assert not accepted(policy, scene.frame(0))


def test_no_other_face_is_accepted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A hundred faces, each put into the same picture, a sixth of its width wide: 4,950 pairs."""
    faces = np.load(fetched(PHOTOGRAPHS, tmp_path_factory) / PHOTOGRAPHS.folder / "lfw_subset.npy")[:100]
    picture = Image.fromarray(Scene("held-out", 3, 256).frame(0))
    hashes = []
    for face in faces:
        small = Image.fromarray(np.uint8(255 * face)).convert("RGB").resize((43, 43))
        picture.paste(small, (100, 60))
        hashes.append(likeness_of(np.asarray(picture)))
    assert min(difference(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > NEAR


def test_blank_pictures_are_copies_of_blank_pictures_only(tmp_path: Path) -> None:
    policy = ConsentList(tmp_path / "list")
    policy.add(np.full((64, 64, 3), 255, np.uint8), "a mistake")
    figure = np.full((256, 256, 3), 255, np.uint8)
    figure[120:140, 120:130] = 90
    assert not any(accepted(policy, picture) for picture in (figure, *PEOPLE))


def test_a_consent_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ConsentList(tmp_path / "list")
    monkeypatch.setattr(consent, "today", lambda: "2027-01-10")
    policy.add(PEOPLE[0], "Ada", "2027-01-20")
    for day, allowed in (("2027-01-09", False), ("2027-01-20", True), ("2027-01-21", False)):
        monkeypatch.setattr(consent, "today", lambda day=day: day)
        if allowed:
            policy.check_reference(PEOPLE[0], {})
        else:
            with pytest.raises(Refused):
                policy.check_reference(PEOPLE[0], {})
    monkeypatch.setattr(consent, "today", lambda: "2027-01-15")
    assert [each.who for each in policy.revoke(PEOPLE[0])] == ["Ada"]
    with pytest.raises(Refused):
        policy.check_reference(PEOPLE[0], {})
    policy.add(PEOPLE[0], "Ada, again")
    policy.check_reference(PEOPLE[0], {})


def test_the_command_keeps_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed, picture = str(tmp_path / "list.jsonl"), str(tmp_path / "hero.png")
    Image.fromarray(PEOPLE[0]).save(picture)
    assert main(["consent", "add", listed, picture, "--who", "Ada\x1b[1m", "--until", "2099-12-31"]) == 0
    (line,) = Path(listed).read_text().splitlines()
    assert json.loads(line)["digest"] == picture_digest(PEOPLE[0])
    capsys.readouterr()
    assert main(["consent", "list", listed]) == 0
    shown = capsys.readouterr().out
    assert "to 2099-12-31  Ada\\x1b[1m" in shown
    assert main(["consent", "revoke", listed, picture]) == 0
    assert "revoked" in capsys.readouterr().out
    assert main(["consent", "revoke", listed, picture]) == 65
    assert main(["consent", "add", listed, picture, "--who", "Ada", "--until", "tomorrow"]) == 64
    assert main(["consent", "add", listed, picture, "--who", "Ada", "--until", "2020-01-01"]) == 64
    assert main(["consent", "add", listed, picture, "--who", " "]) == 64


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    def change(number: int) -> None:
        consents = ConsentList(tmp_path / "list")
        consents.add(PEOPLE[number], f"Ada {number}")
        if number % 2:
            consents.revoke(PEOPLE[number])

    with ThreadPoolExecutor(len(PEOPLE)) as threads:
        list(threads.map(change, range(len(PEOPLE))))
    found = ConsentList(tmp_path / "list").read()
    assert {each.who for each in found} == {f"Ada {number}" for number in range(len(PEOPLE))}
    assert {each.who for each in found if each.revoked} == {
        f"Ada {number}" for number in range(1, len(PEOPLE), 2)
    }
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


@pytest.mark.parametrize(
    ("changed"),
    [{"until": "20270630"}, {"until": "2027-W26-3"}, {"given": ""}, {"likeness": "00"}, {"digest": "0x1"}],
)
def test_a_day_or_digest_of_another_form_accepts_nobody(tmp_path: Path, changed: dict[str, str]) -> None:
    """Days are compared as texts, in which "2027-12-31" is before "20270630"."""
    policy = ConsentList(tmp_path / "list")
    policy.add(PEOPLE[0], "Ada")
    assert accepted(policy, PEOPLE[0])
    policy.path.write_text(json.dumps(json.loads(policy.path.read_text()) | changed))
    with pytest.raises(InputError, match="list:1: expected a consent"):
        policy.check_reference(PEOPLE[0], {})


@pytest.mark.parametrize("line", ["{}", "[1]", "x", '{"digest": "zz"}', "[" * 3000, '{"who": 1}'])
def test_a_damaged_list_accepts_nobody(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(line)
    with pytest.raises(InputError, match="list:1: expected a consent"):
        ConsentList(tmp_path / "list").check_reference(PEOPLE[0], {})


def test_policies_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studio_policy.py").write_text(
        "from animate_rt.runtime.marks.consent import ConsentList\n"
        "policy = ConsentList('list.jsonl')\n"
        "def make():\n    return policy\n"
        "number = 3\n"
        "def broken():\n    raise RuntimeError('no network')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_policy("studio_policy:policy"), Policy)
    assert load_policy("studio_policy:make") is sys.modules["studio_policy"].policy
    for wrong in (
        "studio_policy",
        "studio_policy:none",
        "none:x",
        "studio_policy:number",
        "studio_policy:broken",
    ):
        with pytest.raises(ConfigError, match="--policy"):
            load_policy(wrong)
