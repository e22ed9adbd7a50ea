"""The style of skeletons belongs to the weights: from a checkpoint's layout or settings into the manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from animate_rt import BundleMismatch, CheckpointError
from animate_rt.engines.bundle import MANIFEST, open_bundle, seal
from animate_rt.engines.inspect import report
from animate_rt.export import build_bundle, load_checkpoint

from .manifests import edit_manifest

NETWORKS = ("denoising_unet", "motion_module", "reference_unet", "pose_guider")


@pytest.fixture
def musepose(small: Any, tmp_path: Path) -> Path:
    """The small checkpoint in MusePose's layout."""
    folder = Path(shutil.copytree(small.checkpoint, tmp_path / "checkpoint"))
    (folder / "MusePose").mkdir()
    for name in NETWORKS:
        (folder / f"{name}.pth").rename(folder / "MusePose" / f"{name}.pth")
    (folder / "stable-diffusion-v1-5").rename(folder / "sd-image-variations-diffusers")
    return folder


def settings(path: Path, style: Any) -> Path:
    path.write_text(yaml.safe_dump({"pose_style": style}))
    return path


def test_the_style_comes_from_the_layout(small: Any, musepose: Path) -> None:
    assert load_checkpoint(small.checkpoint, small.inference_config).config.pose_style == "dwpose"
    assert load_checkpoint(musepose).config.pose_style == "musepose"


def test_the_style_comes_from_the_folder_of_the_pose_guider(musepose: Path, tmp_path: Path) -> None:
    """Other weights for the same guider have its style; MusePose's own folder may be the checkpoint."""
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(musepose / "MusePose" / "denoising_unet.pth", few)
    assert load_checkpoint(few, base=musepose).config.pose_style == "musepose"
    assert load_checkpoint(musepose / "MusePose", base=musepose).config.pose_style == "musepose"


def test_inference_settings_replace_the_style_of_the_layout(
    small: Any, musepose: Path, tmp_path: Path
) -> None:
    muse = settings(tmp_path / "muse.yaml", "musepose")
    config = load_checkpoint(small.checkpoint, muse).config
    assert config == dataclasses.replace(load_checkpoint(small.checkpoint).config, pose_style="musepose")
    settings(musepose / "inference.yaml", "dwpose")
    assert load_checkpoint(musepose).config.pose_style == "dwpose"
    assert load_checkpoint(musepose, muse).config.pose_style == "musepose"


@pytest.mark.parametrize("style", ["rain", None, ["dwpose"], 3])
def test_an_unknown_style_in_inference_settings_is_refused(small: Any, tmp_path: Path, style: Any) -> None:
    wrong = settings(tmp_path / "inference.yaml", style)
    expected = r"inference\.yaml: pose_style: expected one of dwpose, musepose, found [^\n]+$"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(small.checkpoint, wrong)


@pytest.mark.slow
def test_a_built_bundle_records_the_style(small: Any, musepose: Path, tmp_path: Path) -> None:
    build_bundle(musepose, tmp_path / "bundle", **small.build_options | {"inference_config": None})
    assert open_bundle(tmp_path / "bundle").manifest.model.pose_style == "musepose"


def test_a_sealed_bundle_keeps_the_style(musepose: Path, small_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
    seal(copy, dataclasses.replace(open_bundle(copy).manifest, model=load_checkpoint(musepose).config))
    opened = open_bundle(copy)
    assert opened.manifest.model.pose_style == "musepose"
    assert "skeletons in the style musepose" in report(opened)


def test_a_bundle_without_a_style_opens_as_dwpose_and_keeps_its_digest(
    small_bundle: Path, copied: Path
) -> None:
    edit_manifest(copied, lambda document: document["model"].pop("pose_style"))
    opened = open_bundle(copied)
    assert opened.manifest.model.pose_style == "dwpose"
    assert opened.digest == json.loads((copied / MANIFEST).read_bytes())["digest"]
    assert opened.manifest == open_bundle(small_bundle).manifest
    assert "skeletons in the style dwpose" in report(opened)


def test_a_bundle_with_an_unknown_style_is_refused(copied: Path) -> None:
    edit_manifest(copied, lambda document: document["model"].update(pose_style="rain"))
    with pytest.raises(BundleMismatch, match=r"pose_style: expected one of dwpose, musepose, found rain"):
        open_bundle(copied)
