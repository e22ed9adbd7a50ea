"""Every route and status code of the server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import av
import httpx
import pytest
from animate_rt import Job
from animate_rt.runtime.service.checker import Examined
from animate_rt.runtime.service.http import videos
from PIL import Image

from .service_requests import held
from .serving import FRAMES, LONG, Form, Served, create, ended, error_of, serving

MISSING = "0" * 24


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Served]:
    with serving(small_bundle, queue_size=3, active_clips=1) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client
        for video in client.get("/v1/videos", params={"limit": 100}).json()["data"]:
            assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"] is True


@pytest.fixture
def completed(client: httpx.Client, form: Form) -> dict[str, Any]:
    return ended(client, create(client, form())["id"])


def test_the_video_object(client: httpx.Client, form: Form) -> None:
    answer = client.post(
        "/v1/videos", **form(prompt="a walk", seed="7", fps="20", num_frames="4", model="other")
    )
    assert answer.status_code == 200
    video = answer.json()
    assert 200 <= int(answer.headers["openai-poll-after-ms"]) <= 5000
    done = ended(client, video["id"])
    assert (done["status"], done["progress"], done["frames_done"], done["num_frames"]) == (
        "completed",
        100,
        4,
        4,
    )
    assert (done["seconds"], done["fps"], done["size"], done["model"]) == ("0.2", 20, "64x96", "other")
    assert done["settings"] == {"num_inference_steps": 2, "seed": 7}
    assert done["unused"] == ["model", "prompt"] or done["unused"] == ["prompt", "model"]
    assert done["stage_durations"].keys() >= {"reference", "denoise"}
    assert 0 < done["inference_time_s"] < 60
    assert (done["error"], done["queue_position"], done["seconds_left"]) == (None, None, 0)
    assert done["expires_at"] == done["completed_at"] + 86_400


def test_content_in_ranges(client: httpx.Client, completed: dict[str, Any]) -> None:
    path = f"/v1/videos/{completed['id']}/content"
    whole = client.get(path)
    size = len(whole.content)
    assert (whole.status_code, whole.headers["accept-ranges"], size) == (200, "bytes", completed["num_bytes"])
    with av.open(BytesIO(whole.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    for wanted, start, end in ((f"{size - 5}-", size - 5, size), ("0-9", 0, 10), ("-7", size - 7, size)):
        part = client.get(path, headers={"Range": f"bytes={wanted}"})
        assert (part.status_code, part.content) == (206, whole.content[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    for ignored in ("bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=a-b", f"bytes={'9' * 400}-"):
        assert client.get(path, headers={"Range": ignored}).content == whole.content
    for beyond in (f"bytes={size}-", "bytes=-0", "bytes=-00"):
        answer = client.get(path, headers={"Range": beyond})
        assert error_of(answer, 416)["code"] == "range"
        assert answer.headers["content-range"] == f"bytes */{size}"
    head = client.head(path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")


def test_content_that_the_client_has(client: httpx.Client, completed: dict[str, Any]) -> None:
    path = f"/v1/videos/{completed['id']}/content"
    etag = client.get(path).headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        answer = client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    resumed = {"Range": "bytes=10-", "If-Range": etag}
    assert client.get(path, headers=resumed).status_code == 206
    for part in ("bytes=10-", f"bytes={10**9}-"):
        of_another = {"Range": part, "If-Range": '"other"'}
        assert client.get(path, headers=of_another).status_code == 200


def test_the_thumbnail(client: httpx.Client, completed: dict[str, Any], served: Served) -> None:
    path = f"/v1/videos/{completed['id']}/content"
    answer = client.get(path, params={"variant": "thumbnail"})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(BytesIO(answer.content)).size == (64, 96)
    again = client.get(path, params={"variant": "thumbnail"})
    assert again.content == answer.content
    assert again.headers["etag"] != client.get(path).headers["etag"]
    assert error_of(client.get(path, params={"variant": "spritesheet"}), 400)["param"] == "variant"
    folder = served.service.spool.folder(completed["id"])
    assert not list(folder.glob(".*")), "temporary files are left"


def test_pages_of_the_list(client: httpx.Client, form: Form) -> None:
    ids = [ended(client, create(client, form(seed=str(seed)))["id"])["id"] for seed in range(3)]

    def page(**query: Any) -> dict[str, Any]:
        answer: dict[str, Any] = client.get("/v1/videos", params=query).json()
        return answer | {"data": [video["id"] for video in answer["data"]]}

    newest = {
        "object": "list",
        "data": [ids[2], ids[1]],
        "first_id": ids[2],
        "last_id": ids[1],
        "has_more": True,
    }
    assert page(limit=2) == newest
    assert page(limit=2, after=ids[1])["data"] == [ids[0]]
    assert page(order="asc")["data"] == ids
    assert page(order="asc", after=ids[0]) | {"first_id": 0, "last_id": 0} == {
        "object": "list", "data": ids[1:], "first_id": 0, "last_id": 0, "has_more": False,
    }  # fmt: skip
    assert page(after=ids[0])["data"] == []
    for query in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}):
        assert error_of(client.get("/v1/videos", params=query), 400)["param"] == next(iter(query))
    assert error_of(client.get("/v1/videos", params={"after": MISSING}), 404)["param"] == "after"


def test_events(client: httpx.Client, served: Served, form: Form) -> None:
    seen: list[dict[str, Any]] = []

    def is_ahead(job: Job) -> bool:
        """Clips wait for the watcher."""
        return not seen or seen[-1]["progress"] < int(100 * job.status.progress)

    with held(served.service, is_ahead):
        video = create(client, form(num_inference_steps="10"))
        watch(client, video, seen)
    assert [event["progress"] for event in seen] == sorted(event["progress"] for event in seen)
    assert seen[-1]["status"] == "completed"
    assert len(seen) > 10
    assert "denoise" in {event["stage"] for event in seen}
    assert client.get(f"/v1/videos/{video['id']}/events").text.count("event: ") == 1  # it has ended


def watch(client: httpx.Client, video: dict[str, Any], seen: list[dict[str, Any]]) -> None:
    with client.stream("GET", f"/v1/videos/{video['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
            else:
                assert line in ("event: status", "", ": waiting")


def test_the_live_stream(client: httpx.Client, form: Form) -> None:
    video = create(client, form(windows="open"))
    content = client.get(f"/v1/videos/{video['id']}/stream").content
    with av.open(BytesIO(content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_cancelling(client: httpx.Client, form: Form, completed: dict[str, Any]) -> None:
    running, queued = (create(client, form(num_inference_steps=LONG)) for _ in range(2))
    began = time.monotonic()
    for video in (queued, running):
        assert client.post(f"/v1/videos/{video['id']}/cancel").json()["status"] == "cancelled"
    assert time.monotonic() - began < 5
    again = client.post(f"/v1/videos/{running['id']}/cancel").json()
    assert (again["status"], again["error"], again["completed_at"]) == ("cancelled", None, None)
    assert client.post(f"/v1/videos/{completed['id']}/cancel").json() == completed
    for name in ("content", "stream"):
        error = error_of(client.get(f"/v1/videos/{running['id']}/{name}"), 409)
        assert (error["code"], error["retryable"]) == ("not_completed", False)


def test_content_before_the_end(client: httpx.Client, form: Form) -> None:
    video = create(client, form(num_inference_steps=LONG))
    answer = client.get(f"/v1/videos/{video['id']}/content")
    assert error_of(answer, 409)["retryable"] is True
    assert int(answer.headers["retry-after"]) >= 1


def test_deleting_tells_the_truth(
    client: httpx.Client, form: Form, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that cannot be stopped in time is not said to be deleted. It is removed when it has stopped."""

    monkeypatch.setattr(videos, "ABORT_S", 0.0)
    running = Event()

    def runs_on(_job: Job) -> bool:
        running.set()
        return True

    with held(served.service, runs_on):
        video = create(client, form())
        assert running.wait(60)
        answer = client.delete(f"/v1/videos/{video['id']}")
        assert (answer.status_code, answer.json()["deleted"]) == (202, False)
    end = time.monotonic() + 20
    while client.get(f"/v1/videos/{video['id']}").status_code != 404:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sync(client: httpx.Client, form: Form) -> None:
    answer = client.post("/v1/videos/sync", **form())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    (video,) = client.get("/v1/videos").json()["data"]
    assert answer.content == client.get(f"/v1/videos/{video['id']}/content").content


@pytest.mark.parametrize("key", ["", "kept"])
def test_leaving_sync_cancels_the_job_without_a_key(
    client: httpx.Client, served: Served, form: Form, key: str
) -> None:
    headers = {"Idempotency-Key": key} if key else {}
    request = client.build_request("POST", "/v1/videos/sync", headers=headers, **form())
    connection = HTTPConnection(request.url.host, request.url.port or 80, timeout=60)
    with held(served.service):
        connection.request("POST", request.url.path, request.read(), dict(request.headers))
        while not (jobs := served.service.list()):
            time.sleep(0.01)
        connection.close()
        assert jobs[0].wait(0.5 if key else 10).state == ("in_progress" if key else "cancelled")


def test_repeating_a_request_with_its_key(client: httpx.Client, form: Form) -> None:
    key = {"Idempotency-Key": "order-17"}
    first = create(client, form(seed="1"), **key)
    assert create(client, form(seed="1"), **key)["id"] == first["id"]
    error = error_of(client.post("/v1/videos", headers=key, **form(seed="2")), 409)
    assert (error["code"], error["retryable"]) == ("key_reused", False)
    assert len(client.get("/v1/videos").json()["data"]) == 1


@pytest.mark.parametrize("key", ["k" * 256, "with space", "tab\tkey"])
def test_a_bad_key(client: httpx.Client, form: Form, key: str) -> None:
    answer = client.post("/v1/videos", headers={"Idempotency-Key": key}, **form())
    assert "Idempotency-Key" in error_of(answer, 400)["message"]


@pytest.mark.parametrize(
    ("trace", "kept"),
    [(f"00-{'a' * 32}-{'b' * 16}-01", True), ("00-a-b-01", False), (f"00-{'A' * 32}-{'b' * 16}-01", False)],
)
def test_the_trace_context(client: httpx.Client, served: Served, form: Form, trace: str, kept: bool) -> None:
    create(client, form(), traceparent=trace)
    (job,) = served.service.list()
    assert job.record.trace == (trace if kept else "")


@pytest.mark.usefixtures("completed")  # its speed is measured
def test_a_deadline_that_cannot_be_met(client: httpx.Client, form: Form) -> None:
    answer = client.post("/v1/videos", **form(num_inference_steps="1000", deadline_s="0.001"))
    error = error_of(answer, 422)
    assert (error["code"], error["retryable"]) == ("deadline_missed", False)


def test_a_full_queue(client: httpx.Client, form: Form) -> None:
    """The answer comes before the upload, with the seconds after which to try again."""
    answers = [client.post("/v1/videos", **form(num_inference_steps=LONG, seed=str(n))) for n in range(5)]
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    error = error_of(answers[-1], 429)
    assert (error["code"], error["type"], error["retryable"]) == ("queue_full", "rate_limit_error", True)
    assert int(answers[-1].headers["retry-after"]) >= 1
    headers = {"Idempotency-Key": "new", "Content-Type": "multipart/form-data; boundary=b"}
    assert error_of(client.post("/v1/videos", headers=headers, content=b""), 429)["code"] == "queue_full"


def test_seconds_and_lengths(client: httpx.Client, form: Form) -> None:
    lengths = [({"seconds": "0.5", "fps": "10"}, 5), ({"num_frames": "4"}, 4), ({"frames": "3-5"}, 3)]
    for texts, frames in lengths:
        assert create(client, form(**texts))["num_frames"] == frames
        client.delete(f"/v1/videos/{client.get('/v1/videos').json()['first_id']}")


def test_metrics(client: httpx.Client, completed: dict[str, Any]) -> None:
    client.get("/nothing/../" + "x" * 50)
    text = client.get("/metrics").text
    assert 'animate_jobs_total{state="completed"}' in text
    assert "animate_bundles_loaded 1.0" in text
    assert 'http_route="/v1/videos/{video_id}"' in text
    assert completed["id"] not in text
    assert "process_resident_memory_bytes" in text


def test_models_and_health(client: httpx.Client) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["size"], model["width"], model["height"], model["window"]) == (
        "64x96", "64x96", 64, 96, 6,
    )  # fmt: skip
    assert model["defaults"] == {"steps": 25, "guidance_scale": 3.5, "overlap": 4}
    assert model["limits"]["frames"] == 2000
    assert 0 < model["seconds_per_frame"] < 60
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    for path in ("/livez", "/readyz", "/metrics"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_the_event_loop_is_not_blocked(
    client: httpx.Client, served: Served, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other requests are answered while inputs are checked."""
    asked, answered, examine = Event(), Event(), served.service.checker.examine

    def slowly(job_list: Path) -> Examined:
        asked.set()
        assert answered.wait(60)
        return examine(job_list)

    monkeypatch.setattr(served.service.checker, "examine", slowly)
    with ThreadPoolExecutor() as pool, served.client() as other:
        created = pool.submit(create, other, form())
        assert asked.wait(60)
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/videos").json()["data"] == []
        answered.set()
        assert created.result()["id"]
