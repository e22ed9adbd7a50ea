"""The command `serve` as a process: what signals do, and what a restart finds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from animate_rt import OutOfMemory
from animate_rt.__main__ import main

from .conftest import Case
from .service_requests import truth
from .serving import LONG, TOKEN, Command, Form, create, ended, error_of, pose_file


def test_sigterm_lets_jobs_end(small_bundle: Path, form: Form, tmp_path: Path) -> None:
    with Command(small_bundle, "--spool", str(tmp_path)) as server:
        assert error_of(server.client.post("/v1/videos", **form()), 503)["code"] == "starting"
        assert server.client.get("/readyz").json() == {"status": "loading"}
        server.wait_until_ready()
        video = create(server.client, form())
        server.terminate()
        status, log = server.end()
    assert status == 0
    assert "Traceback" not in log
    assert f"job {video['id']}: completed" in log


@pytest.mark.slow
def test_jobs_that_do_not_end_in_time_are_made_by_the_next_start(
    small: Case, small_bundle: Path, form: Form, tmp_path: Path
) -> None:
    spool = str(tmp_path / "spool")
    with Command(small_bundle, "--spool", spool, "--drain-s", "1", "--clips", "1") as server:
        server.wait_until_ready()
        short = create(server.client, form())
        ended(server.client, short["id"])
        long = create(server.client, form(num_inference_steps="40"))
        waiting = create(server.client, form(seed="9"))
        server.terminate()
        began = time.monotonic()
        while server.client.get("/readyz").json() != {"status": "draining"}:
            assert time.monotonic() - began < 5
        answer = server.client.post("/v1/videos", **form())
        assert (error_of(answer, 503)["code"], answer.headers["retry-after"]) == ("service_closed", "5")
        assert server.client.get(f"/v1/videos/{short['id']}/content").status_code == 200  # reading goes on
        with server.client.stream("GET", f"/v1/videos/{long['id']}/events") as events:
            assert "event: status" in events.read().decode()  # ends with the server
        status, log = server.end()
        assert status == 0
        assert time.monotonic() - began < 20
        assert "Traceback" not in log
        assert f"job {long['id']}" in log

    with Command(small_bundle, "--spool", spool) as server:
        assert {video["id"] for video in server.client.get("/v1/videos").json()["data"]} == {
            short["id"], long["id"], waiting["id"],
        }  # fmt: skip
        for video, options in ((long, {"steps": 40}), (waiting, {"steps": 2, "seed": 9})):
            assert ended(server.client, video["id"])["status"] == "completed"
            path = tmp_path / f"{video['id']}.mp4"
            expected = truth(small_bundle, small, path, pose=pose_file(small, tmp_path), **options)
            assert server.client.get(f"/v1/videos/{video['id']}/content").content == expected
        server.terminate()
        assert server.end()[0] == 0


@pytest.mark.slow
def test_a_second_signal_stops_at_once(small_bundle: Path, form: Form, tmp_path: Path) -> None:
    with Command(small_bundle, "--spool", str(tmp_path), "--drain-s", "600") as server:
        server.wait_until_ready()
        video = create(server.client, form(num_inference_steps=LONG))
        while server.client.get(f"/v1/videos/{video['id']}").json()["status"] == "queued":
            time.sleep(0.05)
        for _ in range(2):
            server.terminate()
            time.sleep(0.5)
        status, log = server.end()
        assert (status, "Traceback" in log) == (0, False)
    state = json.loads((tmp_path / "jobs" / video["id"] / "job.json").read_text())["state"]
    assert state in ("queued", "in_progress")  # the next start finishes it


@pytest.mark.slow
def test_a_killed_server_finishes_its_jobs_at_the_next_start(
    small_bundle: Path, form: Form, tmp_path: Path
) -> None:
    with Command(small_bundle, "--spool", str(tmp_path), "--clips", "1") as server:
        server.wait_until_ready()
        videos = [create(server.client, form(seed=str(seed), num_inference_steps="6")) for seed in range(4)]
        time.sleep(0.5)
        server.process.kill()
        server.end()
    with Command(small_bundle, "--spool", str(tmp_path)) as server:
        made = [ended(server.client, video["id"]) for video in videos]
        assert [video["status"] for video in made] == ["completed"] * 4
        contents = [server.client.get(f"/v1/videos/{video['id']}/content").content for video in videos]
        again = [create(server.client, form(seed=str(seed), num_inference_steps="6")) for seed in range(4)]
        for video, content in zip(again, contents, strict=True):
            ended(server.client, video["id"])
            assert server.client.get(f"/v1/videos/{video['id']}/content").content == content


@pytest.mark.slow
def test_two_servers_on_one_spool(small_bundle: Path, tmp_path: Path) -> None:
    with Command(small_bundle, "--spool", str(tmp_path)) as server:
        with pytest.raises(RuntimeError, match="in use by another service"):
            Command(small_bundle, "--spool", str(tmp_path))
        assert server.client.get("/livez").status_code == 200


@pytest.mark.slow
def test_a_damaged_bundle_is_refused_at_the_start(small_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(small_bundle, bundle)
    weights = bundle / "graphs" / "weights.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(RuntimeError, match=r"weights\.bin: expected SHA-256"):
        Command(bundle, "--spool", str(tmp_path / "spool"))


def test_a_bundle_that_cannot_be_loaded_ends_the_server(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warm_up(*_: object) -> None:
        raise OutOfMemory("expected more free memory")

    monkeypatch.setattr("animate_rt.runtime.service.service.warm_up", warm_up)
    assert main(["serve", str(small_bundle), "--port", "0"]) == OutOfMemory.exit_status
    assert "animate-rt: expected more free memory" in capsys.readouterr().err


@pytest.mark.slow
def test_all_interfaces_with_a_token(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with Command(
        small_bundle, "--host", "0.0.0.0", "--no-policy", "--token-file", str(tmp_path / "token")
    ) as server:
        port = server.client.base_url.port
        url = f"http://127.0.0.1:{port}/v1/models"
        assert server.client.get(url).status_code == 401
        assert server.client.get(url, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        server.terminate()
        assert TOKEN not in server.end()[1]


def test_other_commands_do_not_import_the_server() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "animate_rt", "--help"]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "animate_rt.runtime.service.http.commands" in imported
    assert not re.search(
        r"\b(fastapi|starlette|uvicorn|pydantic|prometheus_client|python_multipart)\b", imported
    )
