"""Requests that the server refuses, each with its status code and one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from animate_rt.errors import BundleMismatch, ConfigError, DeviceError, InputMissing, OutputError
from animate_rt.runtime.poses.models import MEDIAPIPE, find
from animate_rt.runtime.service.http import videos
from animate_rt.runtime.service.http.failures import public_message, refusal_of
from animate_rt.runtime.service.jobs import public

from .serving import LONG, Form, create, error_of, serving

MISSING = "0" * 24


@pytest.fixture(scope="module")
def client(small_bundle: Path) -> Iterator[httpx.Client]:
    with serving(small_bundle) as served, served.client() as client:
        yield client


@pytest.mark.parametrize(
    ("texts", "param", "status"),
    [
        ({"size": "720x1280"}, "size", 400),
        ({"width": "64"}, "width", 400),
        ({"width": "64", "height": "64"}, "size", 400),
        ({"size": "64x96", "width": "96", "height": "64"}, "size", 400),
        ({"control_type": "depth"}, "control_type", 400),
        ({"num_inference_steps": "many"}, "num_inference_steps", 400),
        ({"num_inference_steps": "0"}, "num_inference_steps", 400),
        ({"num_inference_steps": "1,2"}, "num_inference_steps", 400),
        ({"num_frames": "0"}, "num_frames", 400),
        ({"num_frames": "2.5"}, "num_frames", 400),
        ({"frames": "5-2"}, "num_frames", 400),
        ({"num_frames": "3", "frames": "1-2"}, "num_frames", 400),
        ({"frames": "1-99"}, "control_reference", 422),
        ({"seconds": "1"}, "seconds", 400),
        ({"seconds": "-1", "fps": "10"}, "seconds", 400),
        ({"seconds": "1", "fps": "10", "num_frames": "3"}, "seconds", 400),
        ({"fps": "0"}, "fps", 400),
        ({"guidance_scale": "nan"}, "guidance_scale", 400),
        ({"guidance_scale": "1e999"}, "guidance_scale", 400),
        ({"guidance_interval": "0,1e999"}, "guidance_interval", 400),
        ({"person": "1e999,0"}, "person", 400),
        ({"seconds": "1e999", "fps": "10"}, "seconds", 400),
        ({"deadline_s": "1e999"}, "deadline_s", 400),
        ({"guidance_scale": "0.5"}, "guidance_scale", 400),
        ({"guidance_interval": "0.8,0.2"}, "guidance_interval", 400),
        ({"seed": "-1"}, "seed", 400),
        ({"seed": str(2**64)}, "seed", 400),
        ({"seed": "9" * 5000}, "seed", 400),
        ({"overlap": "99"}, "overlap", 400),
        ({"windows": "round"}, "windows", 400),
        ({"align": "bones"}, "align", 400),
        ({"deadline_s": "0"}, "deadline_s", 400),
        ({"deadline_s": "inf"}, "deadline_s", 400),
        ({"num_inference_step": "2"}, None, 400),
        ({"reference": "/etc/passwd"}, None, 400),
        ({"prompt": "x" * 40_000}, "prompt", 400),
        ({"control_type": "keypoints"}, "control_reference", 422),
    ],
)
def test_bad_fields(
    client: httpx.Client, form: Form, texts: dict[str, str], param: str | None, status: int
) -> None:
    error = error_of(client.post("/v1/videos", **form(**texts)), status)
    assert error["param"] == param, error
    assert "expected" in error["message"]


@pytest.mark.parametrize("missing", ["input_reference", "control_reference"])
def test_missing_files(client: httpx.Client, form: Form, missing: str) -> None:
    fields = form()
    del fields["files"][missing]
    assert error_of(client.post("/v1/videos", **fields), 400)["param"] == missing


@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.post("/v1/videos", json={"prompt": "x"}),
        lambda client: client.post("/v1/videos", data={"prompt": "x"}),
        lambda client: client.post(
            "/v1/videos", content=b"x", headers={"Content-Type": "multipart/form-data"}
        ),
        lambda client: client.post("/v1/videos"),
    ],
)
def test_other_kinds_of_bodies(client: httpx.Client, send: Callable[[httpx.Client], httpx.Response]) -> None:
    error_of(send(client), 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/v1/videos/{MISSING}", 404),
        ("DELETE", f"/v1/videos/{MISSING}", 404),
        ("POST", f"/v1/videos/{MISSING}/cancel", 404),
        ("GET", f"/v1/videos/{MISSING}/content", 404),
        ("GET", f"/v1/videos/{MISSING}/events", 404),
        ("GET", f"/v1/videos/{MISSING}/stream", 404),
        ("GET", "/v1/videos/..%2F..%2Flock", 404),
        ("GET", "/v1/models/none", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/videos", 405),
        ("POST", "/v1/models", 405),
    ],
)
def test_what_is_not_there(client: httpx.Client, method: str, path: str, status: int) -> None:
    error = error_of(client.request(method, path), status)
    assert error["type"] == "invalid_request_error"


def test_errors_of_the_server_name_no_file() -> None:
    secret = "/srv/secret/bundle"
    for error, status in (
        (OutputError(f"cannot write {secret}: no space left"), 507),
        (BundleMismatch(f"{secret}: another version"), 500),
        (DeviceError(f"{secret}: driver failed"), 500),
    ):
        refused = refusal_of(error)
        assert (refused.status, secret in refused.message) == (status, False)
        assert secret not in public_message(error.code, str(error))[0]
    assert refusal_of(ConfigError("steps: expected 1")).message == "num_inference_steps: expected 1"


def test_watchers_are_limited(client: httpx.Client, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_WATCHERS", 1)
    path = f"/v1/videos/{create(client, form(num_inference_steps=LONG))['id']}/events"
    with client.stream("GET", path) as events:
        lines = events.iter_lines()  # the connection closes with it
        assert next(lines) == "event: status"
        assert error_of(client.get(path), 429)["retryable"]
    for _ in range(100):  # until the server has seen that the first has left
        with client.stream("GET", path) as events:
            if events.status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the place of a watcher that has left is not given to another")


def test_a_missing_model_tells_no_path_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputMissing) as caught:
        find(MEDIAPIPE)
    assert str(tmp_path) in str(caught.value)
    message = public(caught.value, Path("/spool/jobs/1"))
    assert str(tmp_path) not in message
    assert message.startswith("models/mediapipe")
