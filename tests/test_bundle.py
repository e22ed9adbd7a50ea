"""Bundles: written completely or not at all, and refused if a bit is wrong or something does not fit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from animate_rt import Animator, BundleCorrupt, BundleError, BundleMismatch, InputMissing, OutputError
from animate_rt.engines.bundle import MANIFEST, new_bundle, open_bundle

from .manifests import edit_manifest
from .slow import SLOW

FLIPS_PER_FILE = 12


def names(bundle: Path) -> list[str]:
    return sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_the_manifest_lists_every_file(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    assert sorted([*bundle.manifest.files, MANIFEST]) == names(small_bundle)


def test_a_flipped_bit_in_any_file_is_refused(copied: Path) -> None:
    chance = random.Random(0)
    for name in names(copied):
        path = copied / name
        bits = path.stat().st_size * 8
        for bit in {0, bits - 1, *(chance.randrange(bits) for _ in range(FLIPS_PER_FILE))}:
            flip(path, bit)
            with pytest.raises(BundleCorrupt):
                Animator.load(copied)
            flip(path, bit)
    open_bundle(copied)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=SLOW)])
def test_a_flipped_bit_in_the_manifest_is_refused(copied: Path, count: int) -> None:
    """White space and the digest included. Reading only the manifest is fast, so many bits are tried."""
    path = copied / MANIFEST
    content = path.read_bytes()
    chance = random.Random(1)
    for bit in chance.sample(range(len(content) * 8), count):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(BundleCorrupt):
            open_bundle(copied)


@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_missing_and_truncated_files_are_named(copied: Path, damage: str) -> None:
    path = copied / "graphs" / "vae_decoder.onnx"
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 100 if damage == "short" else 0)
    with pytest.raises(BundleCorrupt, match=r"graphs/vae_decoder\.onnx"):
        open_bundle(copied)


def test_another_schema_is_a_mismatch(copied: Path) -> None:
    edit_manifest(copied, lambda document: document.update(schema=99))
    with pytest.raises(BundleMismatch, match="schema 2, found 99"):
        open_bundle(copied)


def test_graphs_of_another_version_are_refused_with_the_command_that_rebuilds(copied: Path) -> None:
    edit_manifest(
        copied, lambda document: document["graphs"]["pose_guider"]["inputs"][0].update(name="picture")
    )
    with pytest.raises(BundleMismatch, match=r"pose_guider.*animate-rt build .* --width 64 --height 96"):
        open_bundle(copied)


def test_an_unknown_field_is_a_mismatch(copied: Path) -> None:
    edit_manifest(copied, lambda document: document.update(colour="blue"))
    with pytest.raises(BundleMismatch, match="build it again"):
        open_bundle(copied)


def test_missing_bundles_and_folders_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="animate-rt build"):
        open_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match="expected a bundle"):
        open_bundle(tmp_path)


def test_a_failed_build_keeps_the_old_bundle(copied: Path) -> None:
    before = (copied / MANIFEST).read_bytes()

    def fail() -> None:
        with new_bundle(copied) as folder:
            (folder / "half").write_text("done")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (copied / MANIFEST).read_bytes() == before
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_only_a_bundle_is_replaced_by_a_bundle(copied: Path, tmp_path: Path) -> None:
    flip(copied / MANIFEST, 0)
    link = copied.parent / "link"
    link.symlink_to(copied)
    for name in (copied, link):
        with new_bundle(name) as folder:
            (folder / MANIFEST).write_text(name.name)
        assert names(copied) == [MANIFEST]
        assert (copied / MANIFEST).read_text() == name.name
    assert sorted(path.name for path in copied.parent.iterdir()) == sorted([copied.name, "link"])
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
