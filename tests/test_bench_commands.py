"""`animate-rt bench` on the small model, with real measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from animate_rt import ConfigError
from animate_rt.__main__ import main
from animate_rt.benchmarks import clip, commands, sizes
from animate_rt.benchmarks.instruments import host
from animate_rt.benchmarks.instruments.timeline import RESIDUAL
from animate_rt.benchmarks.reporting.result import read_result
from animate_rt.console import need_packages
from animate_rt.errors import Regressed


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """Run `animate-rt bench`. Returns the JSON in its last line of standard output."""
    assert main(["bench", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def engine_result(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine") / "engine.json"
    options = ["--graph", "vae_decoder", "--iterations", "5", "--output", str(out)]
    assert main(["bench", "engine", str(small_bundle), *options]) == 0
    return out


def test_bench_engine(engine_result: Path) -> None:
    found = read_result(engine_result)
    results = found.results
    assert results["seconds"]["compute"]["n"] == len(found.samples["compute"]) >= 5
    assert results["accuracy"]["relative_error"] < 0.01  # at most one level of 255
    assert results["floor_s"] > 0
    assert 0 < results["flops_per_s"] < results["ceilings"]["flops_per_s"]
    assert [engine["name"] for engine in found.engines] == ["vae_decoder"]
    parts = ("host_to_device", "compute", "device_to_host")
    for total, *times in zip(found.samples["latency"], *(found.samples[p] for p in parts), strict=True):
        assert total == pytest.approx(sum(times))


def test_bench_engine_lists_the_graphs_for_an_unknown_name(
    small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "engine", str(small_bundle), "--graph", "unet"]) == ConfigError.exit_status
    assert "expected one of image_encoder, vae_encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scenario", "oracle"),
    [("single-stream", "ONNX Runtime"), ("offline", "PyTorch"), ("server", "ONNX Runtime")],
)
def test_bench_clip(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str, oracle: str
) -> None:
    out = tmp_path / "clip.json"
    options = ["--frames", 7, "--steps", 2, "--clips", 3, "--output", out, "--deadline", 1000, "--rate", 4]
    if oracle == "PyTorch":
        options += ["--checkpoint", sizes.RECORDED / "checkpoint"]
        options += ["--inference-config", sizes.RECORDED / "inference.yaml"]
    found = bench(capsys, "clip", small_bundle, "--scenario", scenario, *options)
    results = found["results"]
    assert results["latency_s"]["n"] == 3
    assert results["latency_s"]["p99"] is None
    assert results["load_s"] > 0
    assert results["real_time_factor"] == pytest.approx(24 / results["frames_per_s"])
    assert results["first_frame_s"]["median"] <= results["latency_s"]["median"]
    assert results["accuracy"]["oracle"] == oracle
    assert results["accuracy"]["frames"] == 7
    assert results["accuracy"]["psnr_db"] is None or results["accuracy"]["psnr_db"] > 50
    assert results["memory"]["host_peak"] > 1e7
    stages = results["stages"]
    assert sum(stages["wall"].values()) == pytest.approx(stages["wall_clock"])
    assert sum(stages["wall"].values()) - stages["wall"][RESIDUAL] == pytest.approx(stages["sum"])
    assert stages["wall"]["unet"] > stages["wall"]["sampler"] > 0
    assert stages["busy"]["encode"] > 0
    assert stages["busy"]["unet"] == pytest.approx(sum(read_result(out).samples["unet"]) / 3, rel=1e-3)
    if scenario == "server":
        assert results["server"]["in_time"] == 1
        assert results["server"]["goodput"] == pytest.approx(results["clips_per_s"])
    else:
        assert results["server"] is None


def test_report_and_compare(engine_result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = engine_result, tmp_path / "report.html"
    assert main(["bench", "report", str(out), "--html", str(page)]) == 0
    assert "vae_decoder, openvino" in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
    assert main(["bench", "compare", str(out), str(out)]) == 0
    document = json.loads(out.read_text())
    document["samples"]["compute"] = [2 * value for value in document["samples"]["compute"]]
    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["bench", "compare", str(out), str(slower)]) == Regressed.exit_status
    captured = capsys.readouterr()
    assert "found compute: see what changed" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["regressed"] == ["compute"]


def test_choices_of_the_command_line_are_those_of_the_benchmarks() -> None:
    """They are listed twice, so that the command line starts without importing torch."""
    assert tuple(sizes.SIZES) == commands.SIZES
    assert tuple(clip.SCENARIOS) == commands.SCENARIOS


def test_missing_packages_are_named() -> None:
    with pytest.raises(ConfigError, match=r"animate-rt\[bench\].*found no no_such_package"):
        need_packages("bench", "json", "no_such_package")


def test_a_busy_machine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    idle, total = host.processor_time()
    assert 0 < idle < total
    monkeypatch.setattr(host, "WATCH_S", 0)
    for idle, reported in ((95, False), (50, True), (0, True)):
        times = iter([(1000, 5000), (1000 + idle, 5100)])
        monkeypatch.setattr(host, "processor_time", lambda times=times: next(times))
        assert bool(host.busy_warnings()) is reported


@pytest.mark.parametrize("bad", [["--clips", "0"], ["--rate", "-1"], ["--deadline", "inf"], ["--steps", "x"]])
def test_numbers_are_checked_before_anything_runs(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "clip", "nowhere", *bad])
    assert "expected a" in capsys.readouterr().err
