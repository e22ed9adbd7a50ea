"""Weights that tests draw again are those of the recording."""

from __future__ import annotations

import hashlib

import pytest
import torch
from animate_rt.export.checkpoints.weights import read_weights

from .conftest import DATA, drawn

# SHA-256 of all weights, in the order of weights.txt.
RECORDED = {
    "sdlike": "e9e3caabbff0e470b0816d36bb960acf4f1fce86609dd4806b2a83e2e5ec7146",
    "champ-two": "1f3e9828fd2602c688507c5a036a96bafe0e8e26fa2e2c83291b62b435682a84",
}


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torch computes logarithms another way on this CPU, so some weights are the next float16",
)
@pytest.mark.parametrize("name", RECORDED)
def test_drawn_weights_are_the_recorded_ones(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    digest = hashlib.sha256()
    lines = [line.split("\t")[:2] for line in (DATA / name / "weights.txt").read_text().splitlines()]
    listed = [(file, key) for file, key in lines if file != "seed"]
    folder = drawn(name, tmp_path_factory) / "checkpoint"
    weights = {file: read_weights(folder / file) for file in dict(listed)}
    for file, key in listed:
        digest.update(weights[file][key].numpy().tobytes())
    assert digest.hexdigest() == RECORDED[name]
