"""Bundles: written completely or not at all, and refused if a bit is wrong or something does not fit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from animate_rt import Animator, BundleCorrupt, BundleError, BundleMismatch, InputMissing, OutputError
from animate_rt.engines.bundle import MANIFEST, new_bundle, open_bundle
from animate_rt.engines.files import canonical, digest_of

from .slow import SLOW

FLIPS_PER_FILE = 12


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def names(bundle: Path) -> list[str]:
    return sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_the_manifest_lists_every_file(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    assert sorted([*bundle.manifest.files, MANIFEST]) == names(small_bundle)


def test_a_flipped_bit_in_any_file_is_refused(copy: Path) -> None:
    chance = random.Random(0)
    for name in names(copy):
        path = copy / name
        bits = path.stat().st_size * 8
        for bit in {0, bits - 1, *(chance.randrange(bits) for _ in range(FLIPS_PER_FILE))}:
            flip(path, bit)
            with pytest.raises(BundleCorrupt):
                Animator.load(copy)
            flip(path, bit)
    open_bundle(copy)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=SLOW)])
def test_a_flipped_bit_in_the_manifest_is_refused(copy: Path, count: int) -> None:
    """White space and the digest included. Reading only the manifest is fast, so many bits are tried."""
    path = copy / MANIFEST
    content = path.read_bytes()
    chance = random.Random(1)
    for bit in chance.sample(range(len(content) * 8), count):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(BundleCorrupt):
            open_bundle(copy)


@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_missing_and_truncated_files_are_named(copy: Path, damage: str) -> None:
    path = copy / "graphs" / "vae_decoder.onnx"
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 100 if damage == "short" else 0)
    with pytest.raises(BundleCorrupt, match=r"graphs/vae_decoder\.onnx"):
        open_bundle(copy)


def reseal(bundle: Path, **changed: Any) -> None:
    """Change fields of the manifest and its digest accordingly."""
    document = json.loads((bundle / MANIFEST).read_bytes()) | changed
    document.pop("digest")
    document["digest"] = digest_of(document)
    (bundle / MANIFEST).write_bytes(canonical(document))


def test_another_schema_is_a_mismatch(copy: Path) -> None:
    reseal(copy, schema=99)
    with pytest.raises(BundleMismatch, match="schema 2, found 99"):
        open_bundle(copy)


def test_graphs_of_another_version_are_refused_with_the_command_that_rebuilds(copy: Path) -> None:
    document = json.loads((copy / MANIFEST).read_bytes())
    document["graphs"]["pose_guider"]["inputs"][0]["name"] = "picture"
    reseal(copy, graphs=document["graphs"])
    with pytest.raises(BundleMismatch, match=r"pose_guider.*animate-rt build .* --width 64 --height 96"):
        open_bundle(copy)


def test_an_unknown_field_is_a_mismatch(copy: Path) -> None:
    reseal(copy, colour="blue")
    with pytest.raises(BundleMismatch, match="build it again"):
        open_bundle(copy)


def test_missing_bundles_and_folders_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="animate-rt build"):
        open_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match="expected a bundle"):
        open_bundle(tmp_path)


def test_a_failed_build_keeps_the_old_bundle(copy: Path) -> None:
    before = (copy / MANIFEST).read_bytes()

    def fail() -> None:
        with new_bundle(copy) as folder:
            (folder / "half").write_text("done")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (copy / MANIFEST).read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_only_a_bundle_is_replaced_by_a_bundle(copy: Path, tmp_path: Path) -> None:
    flip(copy / MANIFEST, 0)
    link = copy.parent / "link"
    link.symlink_to(copy)
    for name in (copy, link):
        with new_bundle(name) as folder:
            (folder / MANIFEST).write_text(name.name)
        assert names(copy) == [MANIFEST]
        assert (copy / MANIFEST).read_text() == name.name
    assert sorted(path.name for path in copy.parent.iterdir()) == sorted([copy.name, "link"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    (tmp_path / "mine" / MANIFEST).write_text('{"name": "a manifest of something else"}')
    for taken in (tmp_path / "mine", tmp_path / "mine" / "precious"):
        with pytest.raises(OutputError, match="expected a new name"), new_bundle(taken):
            pass
    assert (tmp_path / "mine" / "precious").exists()


def test_a_killed_build_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from animate_rt.engines.bundle import new_bundle
        with new_bundle({os.fspath(tmp_path / "bundle")!r}) as folder:
            (folder / "half").write_text("done")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
