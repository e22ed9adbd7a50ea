"""The small model that ships: its size and shape."""

from __future__ import annotations

from animate_rt.benchmarks.puppets.model import WEIGHTS
from animate_rt.export import load_checkpoint


def test_what_ships_is_small_and_of_a_shape_that_fuses() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 40e6
    unet = load_checkpoint(WEIGHTS).config.unet
    widths = {width // heads for width, heads in zip(unet.widths, unet.heads, strict=True)}
    assert min(widths) >= 16
    assert all(width % 8 == 0 for width in widths)
    assert all(width % 32 == 0 for width in unet.widths)
