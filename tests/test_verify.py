"""`verify` compares every engine with ONNX Runtime, and finds differences."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from animate_rt import BundleError, DeviceError
from animate_rt.__main__ import main
from animate_rt.engines import verify
from animate_rt.engines.bundle import MANIFEST, Bundle, open_bundle, seal
from animate_rt.engines.contract import DENOISING_UNET, DENOISING_UNET_CONDITIONAL
from animate_rt.engines.device import Device
from animate_rt.engines.engine import Engine
from animate_rt.engines.precision import PRECISIONS
from animate_rt.engines.verify import check, table


def shown(comparisons: list[verify.Comparison]) -> str:
    """The table without the keys, values and cross-attention of all blocks but the first."""
    lines = table(comparisons).splitlines()
    return "\n".join(line for line in lines if not re.search(r"(key|value|cross)_[1-9]", line))


def resealed(bundle: Path, copy: Path, **changed: Any) -> Bundle:
    """A copy of the bundle, or what is in `copy` already, sealed with changed fields in its manifest."""
    if not copy.exists():
        shutil.copytree(bundle, copy)
    (copy / MANIFEST).unlink()
    seal(copy, dataclasses.replace(open_bundle(bundle).manifest, **changed))
    return open_bundle(copy)


def test_float32_engines_pass(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(small_bundle)
    comparisons = verify.verify(bundle)
    with capsys.disabled():
        print(f"\n{shown(comparisons)}")
    expected = [(g, spec.name) for g, c in bundle.manifest.graphs.items() for spec in c.outputs]
    assert [(c.graph, c.output) for c in comparisons] == expected
    check(bundle, comparisons)
    worst = max(c.relative for c in comparisons if c.output != "frame")
    assert 0 < worst < PRECISIONS["fp32"].tolerance / 10  # the tolerance leaves a margin of 10


def test_bfloat16_engines_pass(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = resealed(bundle, tmp_path / "bundle", precision="bf16")
    try:
        comparisons = verify.verify(opened)
    except DeviceError as error:
        pytest.skip(str(error))  # this CPU does not compute in bfloat16
    with capsys.disabled():
        print(f"\n{shown(comparisons)}")
    check(opened, comparisons)


def test_exceeding_the_tolerance_fails_the_command(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRECISIONS, "fp32", dataclasses.replace(PRECISIONS["fp32"], tolerance=1e-9))
    assert main(["verify", str(small_bundle)]) == BundleError.exit_status
    done = capsys.readouterr()
    assert "denoising_unet              prediction" in done.out
    assert "FAILED" in done.out
    assert "expected outputs within the tolerance" in done.err.splitlines()[-1]


def test_slightly_different_weights_are_found(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engines are made from weights whose last tensor of the UNet is 0.1 % larger."""
    shutil.copytree(small_bundle, tmp_path / "other")
    graphs = tmp_path / "other" / "graphs"
    model = onnx.load(graphs / "denoising_unet.onnx", load_external_data=False)
    (tensor,) = (t for t in model.graph.initializer if t.name == "network.conv_out.weight.half")
    place = {entry.key: entry.value for entry in tensor.external_data}
    shape = (int(place["length"]) // 2,)
    weights = np.memmap(graphs / "weights.bin", np.float16, "r+", int(place["offset"]), shape)
    weights *= np.float16(1.001)
    weights.flush()
    other = resealed(small_bundle, tmp_path / "other")
    load = verify.load_engine

    def load_other(_bundle: Bundle, graph: str, device: Device) -> Engine:
        return load(other, graph, device)

    monkeypatch.setattr(verify, "load_engine", load_other)
    bundle = open_bundle(small_bundle)
    failed = {c.graph for c in verify.verify(bundle) if not c.passed}
    assert failed == {DENOISING_UNET, DENOISING_UNET_CONDITIONAL}


def test_the_command_prints_a_table(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(small_bundle)]) == 0
    done = capsys.readouterr()
    header, *rows = done.out.splitlines()
    assert header.split() == ["graph", "output", "max", "abs", "relative", "PSNR", "dB", "tolerance"]
    assert all(row.endswith(" ok") for row in rows)
    assert "verify denoising_unet" in done.err
