"""RivaGAN as a watermark in Pattern's place, with the networks of the package invisible-watermark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from animate_rt import InputMissing, Marks, Payload, detect, open_writer
from animate_rt.runtime.marks.rivagan import RivaGAN
from animate_rt.runtime.marks.watermark import chance
from animate_rt.runtime.media.picture import read_picture
from animate_rt.runtime.poses.models import RIVAGAN
from PIL import Image

from .fetched import PHOTOGRAPHS, fetched

PAYLOAD = Payload(job=0x5A17)


def test_it_says_how_to_fetch_the_networks(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="animate-rt models fetch rivagan"):
        RivaGAN(tmp_path)


def test_a_photograph_holds_the_bits(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    folder = fetched(RIVAGAN, tmp_path_factory)
    picture = read_picture(fetched(PHOTOGRAPHS, tmp_path_factory) / PHOTOGRAPHS.folder / "astronaut.png")
    frame = np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS))
    rivagan = RivaGAN(folder)
    try:
        marks = Marks(PAYLOAD, watermark=rivagan)
        mark = marks.marker(256, 256)
        assert np.array_equal(mark(frame), mark(frame))
        error = np.mean((mark(frame).astype(float) - frame) ** 2)
        assert 40 < 10 * np.log10(255**2 / error) < 46
        with open_writer(tmp_path / "a", 256, 256, 24, marks=marks) as writer:
            writer.write(frame)
        with open_writer(tmp_path / "b", 256, 256, 24, marks=replace(marks, watermark=None)) as writer:
            writer.write(frame)
        reading = rivagan.read([mark(frame)])
        assert (reading.payload, reading.false_positive_rate) == (PAYLOAD, chance(16))
        found = detect(tmp_path / "a" / "00000.png", [rivagan]).reading
        assert (found.watermark, found.payload) == (rivagan.name, PAYLOAD)
        assert detect(tmp_path / "b" / "00000.png", [rivagan]).reading.right < 16
    finally:
        rivagan.close()
