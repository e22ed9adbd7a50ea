"""How close frames are to the true frames: PSNR, SSIM, LPIPS, and flicker over time.

Frames are (H, W, 3) in 0 to 255 and are compared one by one, so memory does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import log10
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...engines.device import Array
from ...errors import InputError

SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # Gaussian window; K1 = 0.01 and K2 = 0.03, as in the paper
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Distance(Protocol):
    """A perceptual distance of two pictures (H, W, 3)."""

    def __call__(self, ours: Array, truth: Array) -> float: ...


def compare_frames(
    ours: Iterable[Array], truth: Iterable[Array], lpips: Distance | None = None
) -> dict[str, Any]:
    """Means over all frames; `psnr_db` is of the mean squared error of the whole clip, None if that is 0.
    Raises InputError if the clips differ in size or length."""
    errors, similarities, changes, distances = [], [], [], []
    before: tuple[Array, Array] | None = None
    for index, (a, b) in enumerate(pairs(ours, truth)):
        if a.shape != b.shape:
            raise InputError(f"frame {index}: expected {b.shape}, the truth's size, found {a.shape}")
        x, y = a.astype(np.float32), b.astype(np.float32)
        errors.append(float(np.mean((x - y) ** 2)))
        similarities.append(ssim(x, y))
        if lpips:
            distances.append(lpips(x, y))
        if before:
            changes.append(float(np.mean(((x - before[0]) - (y - before[1])) ** 2)))
        before = x, y
    return {
        "frames": len(errors),
        "psnr_db": psnr(float(np.mean(errors))),
        "ssim": float(np.mean(similarities)),
        "flicker": float(np.mean(changes)) ** 0.5 if changes else None,
        "lpips": float(np.mean(distances)) if distances else None,
    }


def pairs(ours: Iterable[Array], truth: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
    a, b, done = iter(ours), iter(truth), object()
    for index in range(1 << 62):
        x, y = next(a, done), next(b, done)
        if x is done and y is done:
            if index == 0:
                raise InputError("nothing to compare: expected at least one frame, found none")
            return
        if x is done or y is done:
            which = "fewer" if x is done else "more"
            raise InputError(f"expected as many frames as the truth has, found {which} (at frame {index})")
        yield x, y  # type: ignore[misc]


def psnr(mean_squared_error: float) -> float | None:
    """PSNR in dB; None if the error is 0."""
    return 10 * log10(255**2 / mean_squared_error) if mean_squared_error else None


def ssim(x: Array, y: Array) -> float:
    """Mean structural similarity of two pictures, per colour channel, over the positions where the whole
    window fits (Wang et al. 2004)."""
    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float(np.mean(likeness / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))))


def blurred(x: Array) -> Array:
    """Gaussian means of (H, W, C), in float64 because variances are small differences of them."""
    taps = np.exp(-0.5 * ((np.arange(SSIM_SIDE) - SSIM_SIDE // 2) / SSIM_SIGMA) ** 2)
    taps, x = taps / taps.sum(), x.astype(np.float64)
    height, width = x.shape[0] - SSIM_SIDE + 1, x.shape[1] - SSIM_SIDE + 1
    rows: Array = sum(tap * x[i : i + height] for i, tap in enumerate(taps))
    columns: Array = sum(tap * rows[:, i : i + width] for i, tap in enumerate(taps))
    return columns


def read_lpips(folder: Path) -> Distance:
    """LPIPS on AlexNet, version 0.1 (Zhang et al. 2018), from its two public weight files:
    alexnet-owt-*.pth (torchvision's network) and alex.pth (the heads of the LPIPS authors)."""
    import torch

    from ...export.checkpoints.weights import read_weights

    backbones = sorted(folder.glob("alexnet-owt-*.pth"))
    if not backbones or not (folder / "alex.pth").is_file():
        raise InputError(f"{folder}: expected alexnet-owt-*.pth and alex.pth, the weights of LPIPS; add them")
    network, heads = read_weights(backbones[0]), read_weights(folder / "alex.pth")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def features(picture: Array) -> list[torch.Tensor]:
        x = (torch.from_numpy(picture) / 127.5 - 1 - shift) / scale
        x = x.permute(2, 0, 1)[None].float()
        found = []
        for index, stride, padding, pool in (
            (0, 4, 2, False),
            (3, 1, 2, True),
            (6, 1, 1, True),
            (8, 1, 1, False),
            (10, 1, 1, False),
        ):
            x = torch.nn.functional.max_pool2d(x, 3, 2) if pool else x
            weight, bias = (network[f"features.{index}.{part}"].float() for part in ("weight", "bias"))
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride, padding))
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return found

    @torch.no_grad()
    def distance(ours: Array, truth: Array) -> float:
        total = 0.0
        for layer, (a, b) in enumerate(zip(features(ours), features(truth), strict=True)):
            head = heads[f"lin{layer}.model.1.weight"].float()
            total += float(torch.nn.functional.conv2d((a - b) ** 2, head).mean())
        return total

    return distance
