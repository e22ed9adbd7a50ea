"""The small model in weights/: its size and shape, and the measurements on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from animate_rt.benchmarks.puppets.evaluation import measure, tradeoffs, variants
from animate_rt.benchmarks.puppets.evaluation.truth import held_out
from animate_rt.benchmarks.puppets.training.model import FEW_STEP_WEIGHTS, SAMPLING, SIZE, WEIGHTS
from animate_rt.benchmarks.reporting.tables import tables_of
from animate_rt.export import load_checkpoint
from safetensors.torch import load_file


def test_the_model_is_small_and_its_attention_heads_can_be_fused() -> None:
    files = [path for folder in (WEIGHTS, FEW_STEP_WEIGHTS) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    unet = load_checkpoint(WEIGHTS).config.unet
    widths = {width // heads for width, heads in zip(unet.widths, unet.heads, strict=True)}
    assert min(widths) >= 16
    assert all(width % 8 == 0 for width in widths)
    assert all(width % 32 == 0 for width in unet.widths)


def test_few_step_weights_use_4_to_6_steps_without_guidance() -> None:
    sampling = load_checkpoint(FEW_STEP_WEIGHTS, base=WEIGHTS).config.sampling
    assert sampling.guidance_scale == 1
    assert sampling.schedule in (4, 5, 6)


def test_motion_modules_can_be_switched_off(tmp_path: Path) -> None:
    silent = variants.without_motion(WEIGHTS, tmp_path / "silent")
    before, after = (load_file(folder / "motion_module.safetensors") for folder in (WEIGHTS, silent))
    ends = {name for name in before if ".temporal_transformer.proj_out." in name}
    assert ends
    assert not any(after[name].any() for name in ends)
    assert all(before[name].equal(after[name]) for name in before.keys() - ends)
    load_checkpoint(silent)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_row_of_the_tables_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scene, few frames and settings. Switching a part off lowers the scores. Precisions differ by less
    than 1 dB."""
    (tmp_path / "measure").mkdir()
    soft = held_out(1, 13, SIZE, "held-out-soft")
    result, sheet, strips = measure.measure(held_out(1, 13, SIZE), soft, tmp_path / "measure")
    rows = {row["name"].strip("*"): row for row in result.results["tables"][0]["rows"]}
    steps = SAMPLING["steps"]
    best = rows[f"{steps} steps, guidance"]
    for worse in ("the reference, copied", "each frame's mean colour", f"{steps} steps without reference"):
        assert rows[worse]["psnr_db"] < best["psnr_db"] - 2, worse
    assert rows[f"{steps} steps without poses"]["limbs"] < best["limbs"]
    assert sheet.shape == (SIZE + measure.HEADER, (3 + len(rows)) * SIZE, 3)
    assert strips.shape == ((1 + len(rows)) * SIZE, (1 + len(measure.STRIP)) * SIZE, 3)
    whole, softer = tables_of(result)
    assert whole.markdown()
    assert softer.head[-2:] == ("open flicker", "consistency")

    monkeypatch.setattr(tradeoffs, "STEPS", (4,))
    monkeypatch.setattr(tradeoffs, "FEW", (4,))
    monkeypatch.setattr(tradeoffs, "SCALES", (2.0, 1.0))
    monkeypatch.setattr(tradeoffs, "INTERVALS", tradeoffs.INTERVALS[:2])
    monkeypatch.setattr(tradeoffs, "OVERLAPS", (0, 4))
    found = {
        group.title: tradeoffs.measured(group, held_out(1, 20, SIZE)) for group in tradeoffs.groups(tmp_path)
    }
    precision, scale = found["Precision"], found["Guidance scale"]
    assert max(row["psnr_db"] for row in precision) - min(row["psnr_db"] for row in precision) < 1
    assert scale[0]["unet_evaluations"] == 2 * scale[1]["unet_evaluations"]
