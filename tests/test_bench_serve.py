"""`animate-rt bench serve` on the small model: a server in a process of its own, and clips in turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from animate_rt import ConfigError
from animate_rt.__main__ import main
from animate_rt.benchmarks.instruments import host
from animate_rt.benchmarks.instruments.video_client import Form, VideoClient
from animate_rt.benchmarks.reporting.result import read_result
from animate_rt.benchmarks.reporting.tables import text_of

from .serving import TOKEN, serving

QUICK = ["--frames", "3", "--steps", "1", "--rounds", "2", "--cancelled", "1"]


@pytest.fixture(scope="module")
def measured(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips at once, for a queue of one: a server takes three at most."""
    out = tmp_path_factory.mktemp("serve") / "serve.json"
    load = ["--rates", "1000", "--clips", "4", "--queue", "1", "--deadline", "1000"]
    assert main(["bench", "serve", str(small_bundle), *QUICK, *load, "--output", str(out)]) == 0
    return out


def test_what_a_server_does_under_load(measured: Path) -> None:
    found = read_result(measured)
    (row,) = found.results["rates"]
    made = row["states"]["completed"]
    assert row["states"] == {"completed": made, "refused": 4 - made}
    assert 1 <= made <= 3
    assert row["in_time"] == made
    for name in ("latency", "queue", "first_fragment"):
        assert len(found.samples[f"{name} at rate 1"]) == made
    for queued, streamed, ended in zip(
        *(found.samples[f"{name} at rate 1"] for name in ("queue", "first_fragment", "latency")), strict=True
    ):
        assert 0 < queued < ended
        assert queued < streamed
    assert {"reference", "denoise"} <= row["stages"].keys()
    assert 0 < row["goodput"] < 1000
    assert found.results["server_peak_bytes"] > 1e8


def test_what_the_service_adds(measured: Path) -> None:
    cost = read_result(measured).results["own_cost"]
    assert cost["identical"] is True
    for way in ("alone", "library", "http"):
        figures = cost["ways"][way]
        assert figures["seconds"]["n"] == 2
        assert figures["cpu_s"] > 0
    assert cost["ways"]["alone"]["ratio"]["ratio"] == 1
    assert cost["ways"]["alone"]["difference_s"] == 0


def test_the_tables_show_it(measured: Path) -> None:
    text = text_of(read_result(measured))
    for words in ("clips arrive at random", "first streamed frame", "library", "http", "cancelled job ended"):
        assert words in text


def test_a_running_server_with_a_token(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with serving(small_bundle, tokens=(TOKEN,)) as served:
        running = ["--url", served.url, "--token-file", str(tmp_path / "token")]
        load = ["--rates", "100", "--clips", "1"]
        assert main(["bench", "serve", str(small_bundle), *QUICK, *load, *running]) == 0
    document: Any = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["results"]["rates"][0]["states"] == {"completed": 1}
    assert document["results"]["server_peak_bytes"] is None
    assert document["results"]["own_cost"]["ways"]["http"]["cpu_s"] is None


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "nowhere", "http://127.0.0.1:1"])
def test_a_url_that_is_none(small_bundle: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", str(small_bundle), *QUICK, "--url", url]) == ConfigError.exit_status
    assert "url: expected" in capsys.readouterr().err


def test_the_form_is_read_by_the_server(small_bundle: Path, tmp_path: Path) -> None:
    """Its texts arrive, and a picture that is none is an error, not a refusal."""
    (tmp_path / "hero.png").write_bytes(b"no picture\r\n--")
    form = Form(
        {"num_inference_steps": "2"},
        dict.fromkeys(["input_reference", "control_reference"], tmp_path / "hero.png"),
    )
    with serving(small_bundle) as served:
        seen = VideoClient(served.url).watch(form, 0.0, stream=False)
    assert (seen.state, seen.content) == ("error", b"")


def test_processor_time_counts_children() -> None:
    import subprocess
    import sys

    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ninput()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE) as process:
        while host.cpu_seconds(process.pid) < 0.3:
            assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
    assert host.cpu_seconds(process.pid) == 0
    assert (host.peak_bytes() or 0) > 1e7
