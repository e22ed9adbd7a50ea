"""Benchmark results: their files, comparison, tables, pages and plots."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from animate_rt import InputError, InputMissing
from animate_rt.benchmarks.instruments.timeline import RESIDUAL, STAGES
from animate_rt.benchmarks.reporting.charts import write_pngs
from animate_rt.benchmarks.reporting.compare import compare
from animate_rt.benchmarks.reporting.report import fill_tables, html
from animate_rt.benchmarks.reporting.result import Result, read_result
from animate_rt.benchmarks.reporting.samples import ratio_of_medians, summary
from animate_rt.benchmarks.reporting.tables import tables_of
from animate_rt.benchmarks.sizes import workload

# Names of XML formats; nothing is fetched from them.
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
ACCURACY = {"frames": 2, "psnr_db": None, "ssim": 1.0, "flicker": 0.0, "lpips": None}
ENGINES = [
    {"name": "denoising_unet", "backend": "openvino 1", "precision": "fp32", "sha256": {"plan": "0" * 64}}
]
SIZE = {"width": 64, "height": 96, "frames": 2, "steps": 1, "guidance_scale": 3.5}
SECONDS = [1.0, 1.02, 0.98, 1.01, 0.99]


def clip_result(factor: float = 1.0) -> Result:
    seconds = [factor * value for value in SECONDS]
    wall = dict.fromkeys((*STAGES, RESIDUAL), 0.1 * factor)
    return Result(
        kind="clip",
        workload={"scenario": "single-stream", **SIZE},
        engines=ENGINES,
        results={
            "latency_s": summary(seconds),
            "first_frame_s": summary(seconds),
            "unet_s": summary(seconds),
            "frames_per_s": 2.0,
            "real_time_factor": 12.0,
            "server": None,
            "stages": {"busy": wall, "wall": wall, "wall_clock": 0.8, "sum": 0.7, "outside_engines": 0.0},
            "load_s": 1.0,
            "memory": {"host_peak": None, "device": None},
            "accuracy": {"oracle": "onnxruntime", **ACCURACY},
        },
        samples={"latency": seconds, "first_frame": seconds},
        warnings=["<busy> & loud"],
    )


def peers_result() -> Result:
    row: dict[str, Any] = {
        "name": "ours, openvino",
        "precision": "fp32",
        "clip_s": summary(SECONDS),
        "speedup": ratio_of_medians(SECONDS, SECONDS)._asdict(),
        "load_s": 1.0,
        "warm_up_s": 1.0,
        "peak_bytes": 1,
        "accuracy": ACCURACY,
        "failure": None,
    }
    broken = dict.fromkeys(row) | {"name": "torch.compile", "precision": "fp32", "failure": "took too long"}
    return Result(
        kind="peers",
        workload=SIZE,
        engines=ENGINES,
        results={"truth": "eager", "peers": [row, broken]},
        samples={"ours, openvino fp32": SECONDS},
        warnings=["torch.compile fp32: took too long"],
    )


def test_a_result_is_read_back_as_written(tmp_path: Path) -> None:
    result = clip_result()
    result.write(tmp_path / "new" / "clip.json")
    assert read_result(tmp_path / "new" / "clip.json") == result
    line = result.line()
    assert "\n" not in line
    assert "samples" not in json.loads(line)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.json"]


def test_nan_is_not_written(tmp_path: Path) -> None:
    odd = dataclasses.replace(clip_result(), samples={"latency": [float("nan")]})
    with pytest.raises(ValueError, match="JSON compliant"):
        odd.write(tmp_path / "odd.json")
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputMissing):
        read_result(path)
    for content, found in (
        ("[]", "found None"),
        ('{"schema": "other@9"}', "found other@9"),
        ("{", "read it"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=found):
            read_result(path)
    path.write_text('{"schema": "animate-rt/bench@1", "kind": "clip"}')
    with pytest.raises(InputError, match="fields"):
        read_result(path)


def test_a_regression_is_a_significant_slowdown() -> None:
    same = compare(clip_result(), clip_result(1.01), 0.05)
    assert not any(change.regressed for change in same)
    slower = compare(clip_result(), clip_result(1.2), 0.05)
    assert all(change.regressed for change in slower)
    assert not any(change.regressed for change in compare(clip_result(), clip_result(0.5), 0.05))
    noisy = dataclasses.replace(clip_result(), samples={"latency": [0.5, 2.0, 1.1]})
    assert not any(change.regressed for change in compare(clip_result(), noisy, 0.05))


def test_only_our_own_samples_can_regress() -> None:
    slower = [2 * value for value in SECONDS]
    for kind, ours, others in (
        ("peers", "ours, openvino fp32", "eager PyTorch fp32"),
        ("ablate", "UNet call: whole", "UNet call: without a table"),
    ):
        before, after = (
            dataclasses.replace(peers_result(), kind=kind, samples=dict.fromkeys((ours, others), seconds))
            for seconds in (SECONDS, slower)
        )
        found = {change.name: change.regressed for change in compare(before, after, 0.05)}
        assert found == {ours: True, others: False}


def test_results_of_other_workloads_are_not_compared() -> None:
    with pytest.raises(InputError, match="same benchmark and workload"):
        compare(clip_result(), peers_result(), 0.05)
    with pytest.raises(InputError, match="samples of the same name"):
        compare(clip_result(), dataclasses.replace(clip_result(), samples={"other": [1.0]}), 0.05)


def test_a_result_older_than_an_option_was_measured_with_its_default() -> None:
    """The recorded results are of a time before `guidance_interval` and `background`."""
    result = peers_result()
    for newer, comparable in (
        ({"background": None, "guidance_interval": [0.0, 1.0]}, True),
        ({"seed": 1}, False),
    ):
        after = dataclasses.replace(result, workload=result.workload | newer)
        if comparable:
            assert compare(result, after, 0.05)
        else:
            with pytest.raises(InputError, match="same benchmark and workload"):
                compare(result, after, 0.05)


def test_a_workload_states_its_size_and_options(tmp_path: Path) -> None:
    work = workload(64, 96, window=6, steps=4, frames=10).with_options(windows="open")
    result = dataclasses.replace(peers_result(), workload=work.as_json())
    result.write(tmp_path / "peers.json")
    assert read_result(tmp_path / "peers.json").workload == {
        "width": 64,
        "height": 96,
        "window": 6,
        "frames": 10,
        "fps": 24,
        "steps": 4,
        "solver": None,
        "cache_interval": 1,
        "guidance_scale": 3.5,
        "guidance_interval": [0.0, 1.0],
        "overlap": 4,
        "windows": "open",
        "order": None,
        "seed": 42,
        "background": None,
    }
    assert "10 frames, 4 steps" in tables_of(result)[0].title
    few = dataclasses.replace(result, workload=work.with_options(steps=(999, 500)).as_json())
    assert "10 frames, 2 steps" in tables_of(few)[0].title


def test_a_page_loads_nothing_from_elsewhere() -> None:
    page = html([("one", clip_result()), ("all", peers_result())])
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= NAMESPACES
    assert not re.findall(r"<script|<link|<image|@import|url\((?!#)", page)
    assert "&lt;busy&gt; &amp; loud" in page
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 3
    assert all(ElementTree.fromstring(chart).get("viewBox") for chart in charts)
    assert "took too long" in page
    assert "real-time factor" in page


def test_tables_of_a_page_are_filled_in_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    other = "<!-- table clip -->\nas it was\n<!-- end -->"
    page.write_text(f"# Title\n\n<!-- table peers -->\nold\n<!-- end -->\n\n{other}\n\nthe end\n")
    for _ in range(2):  # the second call replaces the tables of the first
        fill_tables(page, [("peers", peers_result())])
        text = page.read_text()
        assert "old" not in text
        assert text.startswith("# Title\n\n<!-- table peers -->\n\nInterleaved clips, 64x96, 2 frames")
        assert text.endswith(f"<!-- end -->\n\n{other}\n\nthe end\n")
        assert "*Warning: torch.compile fp32: took too long.*" in text
        assert "| ours, openvino | fp32 | 5 | 1 |" in text
    with pytest.raises(InputError, match="table engine"):
        fill_tables(page, [("peers", clip_result()), ("engine", clip_result())])
    assert page.read_text() == text  # a call that fails changes nothing


def test_tables_have_a_cell_for_every_column() -> None:
    for table in (*tables_of(clip_result()), *tables_of(peers_result())):
        assert {len(row) for row in table.rows} == {len(table.head)}
        assert len(table.text().splitlines()) == 1 + len(table.rows)


def test_stages_and_the_residual_make_up_the_wall_clock() -> None:
    _, stages = tables_of(clip_result())
    seconds = {row[0]: float(row[2]) for row in stages.rows}
    assert sum(seconds[stage] for stage in STAGES) == pytest.approx(seconds["sum of the stages"])
    assert seconds["sum of the stages"] + seconds[RESIDUAL] == pytest.approx(seconds["wall clock"])


def test_plots_are_written_as_png(tmp_path: Path) -> None:
    results = [("one", clip_result()), ("two", clip_result(2.0)), ("all", peers_result())]
    written = {path.name for path in write_pngs(tmp_path, results)}
    clips = {f"{name}-{chart}.png" for name in ("one", "two") for chart in ("stages", "latency")}
    assert written == {*clips, "all-clips.png", "throughput-1.png"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
