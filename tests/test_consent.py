"""The list of consented references, as a policy and as a command; policies by name."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from animate_rt import ConfigError, InputError, Refused
from animate_rt.__main__ import main
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks import consent
from animate_rt.runtime.marks.consent import NEAR, ConsentList, distance, likeness_of
from animate_rt.runtime.marks.policy import Policy, load_policy, picture_digest
from animate_rt.runtime.media.picture import Frame, read_picture
from PIL import Image

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


def test_copies_of_a_reference_are_accepted_and_other_people_are_not(tmp_path: Path) -> None:
    policy = ConsentList(tmp_path / "list")
    policy.add(PEOPLE[3], "Ada")
    Image.fromarray(PEOPLE[3]).resize((96, 96)).save(tmp_path / "copy.jpg", quality=80)
    copy = read(tmp_path / "copy.jpg")
    assert picture_digest(copy) != picture_digest(PEOPLE[3])
    policy.check_reference(copy, {})
    hashes = list(map(likeness_of, PEOPLE))
    apart = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 2 * NEAR


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
