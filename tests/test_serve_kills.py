"""A server that is killed again and again under load: no accepted job is lost, and none is made twice."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from .conftest import Case
from .service_requests import truth
from .serving import Command, Form, ended, pose_file

KILLS, NEW, SEEDS = 50, 2, 4  # kills, new requests after each start, and different clips


def ask(server: Command, form: dict[str, Any], key: str, killed: Event) -> str | None:
    """The id of an accepted job. None if the server was killed before it answered."""
    while not killed.is_set():
        try:
            answer = server.client.post("/v1/videos", headers={"Idempotency-Key": key}, **form)
        except httpx.HTTPError:
            return None
        if answer.status_code == 200:
            return str(answer.json()["id"])
        assert answer.status_code in (429, 503), answer.text
        killed.wait(0.05)
    return None


def records(spool: Path) -> Iterator[dict[str, Any]]:
    for path in (spool / "jobs").glob("*/job.json"):
        yield json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_under_load(
    small: Case, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, pose = Form(small, tmp_path), pose_file(small, tmp_path)
    expected = [
        truth(small_bundle, small, tmp_path / f"truth-{seed}.mp4", pose=pose, seed=seed)
        for seed in range(SEEDS)
    ]
    chance, spool = random.Random(0), tmp_path / "spool"
    accepted: dict[str, str] = {}
    unfinished = 0  # jobs that were accepted and not made when a server was killed

    def form_of(key: str) -> dict[str, Any]:
        return form(seed=str(int(key) % SEEDS))

    for kill in range(KILLS):
        keys = [str(number) for number in range((kill + 1) * NEW) if str(number) not in accepted]
        killed = Event()
        with (
            Command(small_bundle, "--spool", str(spool), "--queue", "50") as server,
            ThreadPoolExecutor() as pool,
        ):
            if chance.random() < 0.8:
                server.wait_until_ready()
            asked = [pool.submit(ask, server, form_of(key), key, killed) for key in keys]
            wait(asked[: chance.choice([0, 1, 1, 2])])
            time.sleep(chance.uniform(0, 0.5))
            server.process.kill()
            killed.set()
            found = {key: one.result() for key, one in zip(keys, asked, strict=True)}
            accepted |= {key: job_id for key, job_id in found.items() if job_id}
        unfinished += sum(record["state"] != "completed" for record in records(spool))

    with Command(small_bundle, "--spool", str(spool), "--queue", "50") as server:
        server.wait_until_ready()
        for key in map(str, range(KILLS * NEW)):
            job_id = ask(server, form_of(key), key, Event())
            assert accepted.get(key) in (None, job_id)
            assert job_id is not None
            assert ended(server.client, job_id)["status"] == "completed"
            content = server.client.get(f"/v1/videos/{job_id}/content").content
            assert content == expected[int(key) % SEEDS]
        server.terminate()
        assert server.end()[0] == 0
    made = [record["idempotency_key"] for record in records(spool)]
    assert sorted(made, key=int) == [str(number) for number in range(KILLS * NEW)]
    assert not list((spool / "new").iterdir())
    assert unfinished > KILLS / 2
    with capsys.disabled():
        print(f"\n{KILLS} kills, {len(accepted)} jobs accepted before them, {unfinished} found unfinished")
