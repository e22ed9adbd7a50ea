"""The cost of masking padding frames: `python -m animate_rt.benchmarks.short_clips BUNDLE SHORTER`.

A clip shorter than the window runs in the same engine, with its padding masked in temporal attention. The two
alternatives are a separate engine for every length, and an engine without the mask for clips that need none.
Both bundles are OpenVINO bundles of the same checkpoint; SHORTER is built for a shorter window.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..engines.bundle import Bundle, open_bundle
from ..engines.contract import DENOISING_UNET
from ..engines.cpu.openvino import compile_model, import_openvino
from ..engines.manifest import WEIGHTS

ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("shorter", type=Path)
    given = parser.parse_args()
    whole, shorter = open_bundle(given.bundle), open_bundle(given.shorter)
    runs = {
        "masked": compiled(whole, mask=True),
        "without mask": compiled(whole, mask=False),
        "shorter window": compiled(shorter, mask=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round in range(ROUNDS + 1):  # the first warms up
        for name, run in runs.items():
            began = perf_counter()
            run()
            if round:
                seconds[name].append(perf_counter() - began)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    windows = whole.manifest.bucket.window, shorter.manifest.bucket.window
    weights = (whole.path / WEIGHTS).stat().st_size
    print(
        json.dumps(
            {
                "windows": windows,
                "backend": whole.manifest.backend_version,
                "masked_over_without_mask": median["masked"] / median["without mask"],
                "masked_over_shorter_window": median["masked"] / median["shorter window"],
                "weights_bytes": weights,
                "seconds": seconds,
            }
        )
    )


def compiled(bundle: Bundle, *, mask: bool) -> Callable[[], Any]:
    """The denoising UNet, ready to run; without a mask, `num_frames` is a constant, which OpenVINO folds."""
    ov = import_openvino()
    core = ov.Core()
    model = core.read_model(bundle.engine(DENOISING_UNET), bundle.path / WEIGHTS)
    if not mask:
        (parameter,) = (p for p in model.get_parameters() if p.get_friendly_name() == "num_frames")
        constant = ov.opset13.constant(np.array([bundle.manifest.bucket.window], np.int32))
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
        model.remove_parameter(parameter)
    request = compile_model(core, model, bundle.manifest.precision).create_infer_request()
    generator = np.random.default_rng(0)
    for port in request.model_inputs:
        shape, name = tuple(port.shape), port.any_name
        if name == "num_frames":
            request.set_tensor(port, ov.Tensor(np.array([bundle.manifest.bucket.window], np.int32)))
        else:
            request.set_tensor(port, ov.Tensor(generator.standard_normal(shape, np.float32)))
    return request.infer


if __name__ == "__main__":
    main()
