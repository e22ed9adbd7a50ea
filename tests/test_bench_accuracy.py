"""PSNR, SSIM, LPIPS and flicker, each against a simpler computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt import InputError, InputMissing
from animate_rt.benchmarks.instruments.accuracy import SSIM_SIDE, SSIM_SIGMA, compare_frames, read_lpips, ssim
from animate_rt.benchmarks.quality import bench_quality
from animate_rt.runtime.media.picture import write_png
from numpy.typing import NDArray

Array = NDArray[Any]


@pytest.fixture
def clip() -> Array:
    return np.random.default_rng(0).integers(20, 200, (4, 24, 20, 3), np.uint8)


def test_a_clip_equals_itself(clip: Array) -> None:
    found = compare_frames(clip, clip)
    assert found == {"frames": 4, "psnr_db": None, "ssim": pytest.approx(1), "flicker": 0, "lpips": None}


def test_psnr_of_a_known_error(clip: Array) -> None:
    """Differences of uint8 values do not overflow."""
    assert compare_frames(clip, clip + 10)["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 100))
    assert compare_frames(clip + 10, clip)["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 100))


def test_flicker_measures_only_changes_between_frames(clip: Array) -> None:
    brighter = clip + 10
    alternating = clip.astype(np.int16) + np.array([10, -10, 10, -10])[:, None, None, None]
    assert compare_frames(brighter, clip)["flicker"] == 0
    assert compare_frames(alternating, clip)["flicker"] == pytest.approx(20)
    assert compare_frames(brighter, clip)["psnr_db"] == compare_frames(alternating, clip)["psnr_db"]


def test_ssim_of_flat_pictures() -> None:
    """Without variance only the luminance term is left, (2ab + C1) / (a^2 + b^2 + C1)."""
    x, y = np.full((16, 16, 3), 100.0), np.full((16, 16, 3), 120.0)
    assert ssim(x, y) == pytest.approx((24000 + 6.5025) / (24400 + 6.5025))


def test_ssim_equals_its_definition() -> None:
    """Computed one window after another, as its paper defines it."""
    generator = np.random.default_rng(1)
    x = generator.uniform(0, 255, (14, 13, 1))
    y = np.clip(x + generator.normal(0, 30, x.shape), 0, 255)
    taps = np.exp(-0.5 * ((np.arange(SSIM_SIDE) - SSIM_SIDE // 2) / SSIM_SIGMA) ** 2)
    weights = np.outer(taps, taps) / np.outer(taps, taps).sum()
    values = []
    for top in range(14 - SSIM_SIDE + 1):
        for left in range(13 - SSIM_SIDE + 1):
            a, b = (p[top : top + SSIM_SIDE, left : left + SSIM_SIDE, 0] for p in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            top_part = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
            values.append(top_part / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    assert ssim(x, y) == pytest.approx(np.mean(values))


def test_clips_of_another_length_or_size_are_refused(clip: Array) -> None:
    with pytest.raises(InputError, match=r"as many frames .* found fewer \(at frame 3\)"):
        compare_frames(clip[:3], clip)
    with pytest.raises(InputError, match="found more"):
        compare_frames(clip, clip[:3])
    with pytest.raises(InputError, match=r"frame 0: expected \(24, 10, 3\)"):
        compare_frames(clip, clip[:, :, :10])
    with pytest.raises(InputError, match="at least one frame"):
        compare_frames([], [])


def test_lpips_of_public_weight_files(tmp_path: Path) -> None:
    """Even with random weights under the public files' keys, the distance grows with the difference."""
    with pytest.raises(InputError, match="alexnet-owt"):
        read_lpips(tmp_path)
    torch.manual_seed(0)
    sizes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    network = {f"features.{i}.weight": 0.05 * torch.randn(o, c, k, k) for i, (o, c, k) in sizes.items()}
    network |= {f"features.{i}.bias": torch.zeros(o) for i, (o, _, _) in sizes.items()}
    heads = {
        f"lin{layer}.model.1.weight": torch.rand(1, o, 1, 1) for layer, (o, _, _) in enumerate(sizes.values())
    }
    torch.save(network, tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save(heads, tmp_path / "alex.pth")
    distance = read_lpips(tmp_path)
    generator = np.random.default_rng(0)
    picture = generator.uniform(0, 255, (64, 64, 3)).astype(np.float32)
    noise = generator.normal(0, 1, picture.shape).astype(np.float32)
    assert distance(picture, picture) == 0
    near, far = (distance(picture, picture + scale * noise) for scale in (5, 50))
    assert 0 < near < far
    assert compare_frames([picture], [picture + noise], distance)["lpips"] > 0


def test_folders_of_clips_are_paired_by_name(tmp_path: Path, clip: Array) -> None:
    for side, offset in (("ours", 5), ("truth", 0)):
        for name in ("a", "b"):
            (tmp_path / side / name).mkdir(parents=True)
            for index, frame in enumerate(clip):
                write_png(tmp_path / side / name / f"{index:05}.png", frame + offset)
    result = bench_quality(tmp_path / "ours", tmp_path / "truth", None)
    assert [row["name"] for row in result.results["rows"]] == ["a", "b"]
    assert result.results["mean"]["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 25))
    single = bench_quality(tmp_path / "ours" / "a", tmp_path / "truth" / "b", None)
    assert single.results["rows"][0]["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 25))
    (tmp_path / "ours" / "c").mkdir()
    with pytest.raises(InputError, match="the same names"):
        bench_quality(tmp_path / "ours", tmp_path / "truth", None)
    with pytest.raises(InputMissing):
        bench_quality(tmp_path / "nowhere", tmp_path / "truth" / "a", None)
