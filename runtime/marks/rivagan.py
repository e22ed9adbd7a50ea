"""The watermark `RivaGAN`: 32 bits by the neural networks that the package invisible-watermark carries.

`animate-rt models fetch rivagan` takes the networks out of the package. Files do not get this mark:
docs/marks.md has the figures. It shows that another encoder and its detector fit in `Pattern`'s place:

    Marks(payload, watermark=RivaGAN())
    detect("out.mp4", [RivaGAN()])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...engines.cpu.device import CPUDevice
from ...engines.cpu.openvino import load_model_file
from ...engines.device import Array
from ...engines.runner import Runner
from ..media.picture import Frame
from ..poses.models import RIVAGAN, find
from .watermark import JOB_BITS, PRODUCT_BITS, Payload, Reading, chance, right_bits

BITS = 32


class RivaGAN:
    """Raises InputMissing if the networks were not fetched; `folder` holds all sets of models."""

    name = "rivagan-0.2.0"

    def __init__(self, folder: Path | None = None):
        self.folder = find(RIVAGAN, folder)
        self.device = CPUDevice()
        self.runners: dict[tuple[str, tuple[int, ...]], Runner] = {}

    def marker(self, width: int, height: int, payload: Payload) -> Callable[[Frame], Frame]:
        run = self.runner("encoder", (height, width), {"data": (1, BITS)})
        bits = np.array([payload.bits], np.float32)

        def mark(frame: Frame) -> Frame:
            output = run({"frame": scaled(frame), "data": bits})["output"]
            levels = (output[0, :, 0].transpose(1, 2, 0)[..., ::-1] + 1) * 127.5
            return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)

        return mark

    def read(self, frames: Sequence[Frame]) -> Reading:
        run = self.runner("decoder", frames[0].shape[:2], {})
        values = np.sum([next(iter(run({"frame": scaled(frame)}).values()))[0] for frame in frames], axis=0)
        payload = Payload.from_bits((values > 0).astype(int).tolist())
        right = right_bits(payload)
        return Reading(
            watermark=self.name,
            payload=payload,
            right=right,
            false_positive_rate=chance(right),
            # Rule of succession: the product's bits, which are known, tell how many of the others are right.
            bits_confidence=((right + 1) / (PRODUCT_BITS + 2)) ** JOB_BITS if right == PRODUCT_BITS else 0.0,
        )

    def runner(self, network: str, size: tuple[int, ...], others: dict[str, tuple[int, ...]]) -> Runner:
        if (network, size) not in self.runners:
            shapes = {"frame": (1, 3, 1, *size), **others}
            engine = load_model_file(self.folder / f"rivagan_{network}.onnx", shapes)
            self.runners[network, size] = Runner(engine, self.device, network)
        return self.runners[network, size]

    def close(self) -> None:
        self.runners.clear()
        self.device.close()


def scaled(frame: Frame) -> Array:
    """A frame as the networks take it: BGR, -1 to 1, float32 (1, 3, 1, height, width)."""
    levels: Array = frame[..., ::-1].astype(np.float32) / 127.5 - 1
    return levels.transpose(2, 0, 1)[None, :, None]
