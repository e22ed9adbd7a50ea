"""Weights that tests draw again are those of the recording."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from animate_rt.export.checkpoints.weights import read_weights

from .conftest import DATA

RECORDED = "e9e3caabbff0e470b0816d36bb960acf4f1fce86609dd4806b2a83e2e5ec7146"


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torch computes logarithms another way on this CPU, so some weights are the next float16",
)
def test_the_weights_of_sdlike_are_the_recorded_ones(sdlike: Any) -> None:
    digest = hashlib.sha256()
    listed = [line.split("\t")[:2] for line in (DATA / "sdlike" / "weights.txt").read_text().splitlines()]
    weights = {file: read_weights(sdlike.checkpoint / file) for file in dict(listed)}
    for file, key in listed:
        digest.update(weights[file][key].numpy().tobytes())
    assert digest.hexdigest() == RECORDED
