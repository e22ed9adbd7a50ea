"""Denoising: windows x steps, and the UNet that predicts one window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..engines.engine import Buffer, Engine, new_buffer
from .reference import Reference
from .sampler import Step
from .windows import Windows

Predict = Callable[[Buffer, list[int], Buffer], Buffer]


def denoise(
    latents: Buffer,
    steps: Sequence[Step],
    time_rows: Sequence[Buffer],
    windows: Windows,
    predict: Predict,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Take latents (frames, 4, h, w) float32 through all steps, in place.

    `predict(latents, window, time_row)` answers with one prediction per frame of the window; a frame in
    several windows gets their mean. `progress` is called after each window.
    """
    counts = np.zeros((len(latents), 1, 1, 1), np.float32)
    for window in windows:
        counts[window] += 1
    total = np.empty_like(latents)
    for step, time_row in zip(steps, time_rows, strict=True):
        total[:] = 0
        for window in windows:
            total[window] += predict(latents, window, time_row)
            progress()
        total *= step.prediction / counts
        latents *= step.latents
        latents += total


class WindowPredictor:
    """The denoising UNet bound to one clip's reference, pose features and guidance scale."""

    def __init__(
        self, unet: Engine, reference: Reference, pose_features: Sequence[Buffer], guidance_scale: float
    ):
        self.pose_features = pose_features
        self.context = unet.context()
        contract = unet.contract
        self.buffers = {
            spec.name: new_buffer(spec)
            for spec in (*contract.inputs, *contract.outputs)
            if spec.name not in reference
        }
        for name, buffer in (self.buffers | reference).items():
            self.context.bind(name, buffer)
        if "guidance_scale" in self.buffers:
            self.buffers["guidance_scale"][:] = guidance_scale

    def __call__(self, latents: Buffer, window: list[int], time_row: Buffer) -> Buffer:
        """(len(window), 4, h, w); valid until the next call. A window shorter than the engine's is padded
        with whatever lies in the buffers, which no frame of it sees."""
        buffers, num_frames = self.buffers, len(window)
        buffers["num_frames"][:] = num_frames
        buffers["time_row"][:] = time_row
        np.take(latents, window, axis=0, out=buffers["latents"][:num_frames])
        for row, frame in enumerate(window):
            buffers["pose_features"][row] = self.pose_features[frame]
        self.context.run()
        return buffers["prediction"][:num_frames]
