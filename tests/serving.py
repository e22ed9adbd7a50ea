"""Servers for tests: in a thread of this process, or as the command in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import create_server
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import Any, NamedTuple

import httpx
from animate_rt import Service
from animate_rt.runtime.service import Limits
from animate_rt.runtime.service.http.app import create_app
from animate_rt.runtime.service.http.prometheus import PrometheusMetrics
from animate_rt.runtime.service.http.server import Server, listen, url_of
from animate_rt.runtime.service.http.uploads import UploadLimits
from PIL import Image

from .conftest import Case

TOKEN = "a-token-of-the-tests"
LONG = "400"  # steps of a clip that does not end before it is cancelled
POSE_MS = 100  # of a frame
FRAMES = 6  # of a clip, one window


class Served(NamedTuple):
    url: str
    service: Service
    server: Server

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)


@contextmanager
def serving(
    bundles: Any,
    *,
    tokens: tuple[str, ...] = (),
    limits: UploadLimits | None = None,
    inputs: Limits | None = None,
    wait: bool = True,
    **options: Any,
) -> Iterator[Served]:
    """A server in a thread."""
    metrics, closing = PrometheusMetrics(), Event()
    with (
        Service(bundles, metrics=metrics, limits=inputs, **options) as service,
        listen("127.0.0.1", 0) as listener,
    ):
        app = create_app(service, metrics, tokens=tokens, limits=limits, closing=closing)
        server = Server(app, service, closing, drain_s=5)
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert not wait or service.ready.wait(60)
            while not server.started:
                time.sleep(0.01)
            yield Served(url_of(listener), service, server)
        finally:
            server.stop()
            thread.join()


@contextmanager
def enduring(bundle: Path, form: Form, limits: UploadLimits, inputs: Limits) -> Iterator[Served]:
    """A server that makes a clip at the end as at the beginning."""
    with serving(bundle, limits=limits, inputs=inputs) as served:
        yield served
        with served.client() as client:
            assert ended(client, create(client, form())["id"])["status"] == "completed"


@contextmanager
def unharmed(served: Served) -> Iterator[httpx.Client]:
    """A client. At the end the server answers, and has kept nothing of an upload."""
    with served.client() as client:
        yield client
        assert client.get("/readyz").status_code == 200
        end = time.monotonic() + 5
        while list(served.service.spool.new.iterdir()):
            assert time.monotonic() < end, "an upload is left"
            time.sleep(0.05)


class Command:
    """`animate-rt serve` in a process of its own, at a free port."""

    def __init__(self, bundle: Path, *options: str):
        command = [sys.executable, "-m", "animate_rt", "serve", str(bundle), "--port", "0", *options]
        self.log = TemporaryFile("w+")  # noqa: SIM115 # a pipe that nobody reads would stop the server when it is full
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        if not found:
            _, log = self._ended(30)
            self._close()
            raise RuntimeError(log)
        self.client = httpx.Client(base_url=found[0], timeout=60, trust_env=False)

    def wait_until_ready(self) -> None:
        while self.client.get("/readyz").status_code != 200:
            time.sleep(0.05)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self, timeout: float = 30) -> tuple[int, str]:
        """Wait for the end; the exit status and the log."""
        self.client.close()
        return self._ended(timeout)

    def _ended(self, timeout: float) -> tuple[int, str]:
        status = self.process.wait(timeout)
        self.log.seek(0)
        return status, self.log.read()

    def _close(self) -> None:
        self.process.communicate()
        self.log.close()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.kill()
        self._close()


def free_port() -> int:
    with closing(create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def pose_file(case: Case, folder: Path) -> Path:
    """The case's first poses as one file, without loss."""
    path = folder / "pose.webp"
    first, *rest = (Image.open(file).convert("RGB") for file in sorted(case.pose.iterdir())[:FRAMES])
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=POSE_MS, lossless=True)
    return path


class Form:
    """The form of a small clip. Calling it gives the arguments of a request, with other fields."""

    def __init__(self, case: Case, folder: Path):
        self.picture, self.pose = case.reference.read_bytes(), pose_file(case, folder).read_bytes()

    def __call__(self, *, picture: Any = None, pose: Any = None, **texts: str) -> dict[str, Any]:
        return {
            "files": {
                "input_reference": ("hero.png", self.picture if picture is None else picture),
                "control_reference": ("walk.webp", self.pose if pose is None else pose),
            },
            "data": {"num_inference_steps": "2"} | texts,
        }

    def keywords(self, **texts: Any) -> dict[str, Any]:
        """The arguments of the openai client's `videos.create`. What it does not know goes in as text."""
        pose = f"data:image/webp;base64,{b64encode(self.pose).decode()}"
        return {
            "prompt": "a walk",
            "input_reference": ("hero.png", self.picture),
            "extra_body": {"control_reference": pose, "num_inference_steps": 2} | texts,
        }


def create(client: httpx.Client, form: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Post a form and return the Video object."""
    answer = client.post("/v1/videos", headers=headers, **form)
    assert answer.status_code == 200, answer.text
    video: dict[str, Any] = answer.json()
    return video


def ended(client: httpx.Client, video_id: str, timeout: float = 60) -> dict[str, Any]:
    """Wait until a job has ended and return the Video object."""
    end = time.monotonic() + timeout
    while True:
        video: dict[str, Any] = client.get(f"/v1/videos/{video_id}").json()
        if video["status"] not in ("queued", "in_progress"):
            return video
        assert time.monotonic() < end, video
        time.sleep(0.02)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must have this status and be of the documented form."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"code", "message", "param", "type", "retryable"}
    message = error["message"]
    assert message.isprintable()
    assert "Traceback" not in message
    assert "/tmp" not in message, message  # where tests keep spools
    return error
