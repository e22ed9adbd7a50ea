"""Marks over HTTP: the policy's refusals, the route that looks for marks, and what a live stream carries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from animate_rt import Animator, Marks, Payload, detect, open_writer
from animate_rt.__main__ import main
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.engines.device import Array
from animate_rt.errors import ConfigError
from animate_rt.runtime.marks.metadata import GENERATED
from animate_rt.runtime.media.picture import Frame
from animate_rt.runtime.service.http.uploads import UploadLimits

from .certificates import write_certificate
from .conftest import Case
from .policies import WHY, Recording
from .service_requests import request
from .serving import Form, Served, create, ended, error_of, serving
from .test_service_live import frames, watch

SMALL_LIMIT = 1 << 20


@pytest.fixture(scope="module")
def served(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    spool = tmp_path_factory.mktemp("spool")
    limits = UploadLimits(video_bytes=SMALL_LIMIT)
    with serving(small_bundle, policy=Recording(references=is_not_white), spool=spool, limits=limits) as one:
        yield one


def is_not_white(picture: Frame) -> bool:
    return bool(picture.min() < 255)


def found(client: httpx.Client, content: bytes, name: str = "file") -> httpx.Response:
    return client.post("/v1/detect", files={name: ("a client's name", content)})


def marked_clip(path: Path) -> bytes:
    scene = Scene("held-out", 4, 256)
    with open_writer(path, 256, 256, 24, marks=Marks(Payload(0x1234))) as writer:
        for index in range(6):
            writer.write(scene.frame(index))
    return path.read_bytes()


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/sync"])
def test_a_refused_reference(served: Served, form: Form, tmp_path: Path, path: str) -> None:
    from PIL import Image

    white = tmp_path / "white.png"
    Image.new("RGB", (64, 96), "white").save(white)
    with served.client() as client:
        error = error_of(client.post(path, **form(picture=white.read_bytes())), 403)
        assert (error["code"], error["message"], error["retryable"]) == ("content_policy", WHY, False)
        assert client.get("/v1/videos").json()["data"] == []
    spool = served.service.spool
    assert [*spool.new.iterdir(), *spool.jobs.iterdir()] == []


def test_a_served_file_is_marked_and_its_stream_has_no_metadata(served: Served, form: Form) -> None:
    """The small model's frames are too small to read the bits from."""
    with served.client() as client:
        video = ended(client, create(client, form())["id"])
        assert video["status"] == "completed", video
        content = client.get(f"/v1/videos/{video['id']}/content").content
        assert found(client, content).json()["metadata"]["source_type"] == GENERATED
        stream = client.get(f"/v1/videos/{video['id']}/stream").content
        assert found(client, stream).json()["metadata"]["source_type"] == ""
        assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"]


def test_a_live_stream_has_the_watermark(served: Served, small: Case, small_bundle: Path) -> None:
    """What is added to the frames of the model lies along the pattern, as far as the codec lets it."""
    keys: Any = {"steps": 8, "windows": "open"}

    async def made_and_watched() -> tuple[Path, bytes]:
        job = await served.service.submit_async(request(small, **keys))
        content = await watch(served.service, job)
        return await job, content

    path, content = asyncio.run(made_and_watched())
    digest = json.loads(Path(f"{path}.json").read_text())["digest"]
    with Animator.load(small_bundle) as animator:
        plain = np.stack(list(animator.animate(small.reference, small.pose, **keys))).astype(float)

    def pattern(payload: Payload) -> Array:
        mark = Marks(payload).marker(small.width, small.height)
        return np.stack(list(map(mark, plain.astype(np.uint8)))) - plain

    added = frames(content) - plain
    right, wrong = (share_of(added, pattern(each)) for each in (Payload.of(digest), Payload(1)))
    assert right > 0.4
    assert wrong < right - 0.1


def share_of(difference: Array, pattern: Array) -> float:
    """How much of a pattern is in a difference; 1 if the difference is the pattern and unrelated noise."""
    return float((difference * pattern).sum() / (pattern * pattern).sum())


def test_detect_gives_what_the_library_gives(served: Served, tmp_path: Path) -> None:
    content = marked_clip(tmp_path / "clip.mp4")
    expected = detect(tmp_path / "clip.mp4").document()
    with served.client() as client:
        answer = found(client, content)
        assert answer.status_code == 200, answer.text
        assert answer.json() | {"file": expected["file"]} == {"object": "marks"} | json.loads(
            json.dumps(expected)
        )
        assert answer.json()["marked"]
        assert answer.json()["watermark"]["job"] == "1234"
        plain = Scene("held-out", 4, 256).frame(0)
        with open_writer(tmp_path / "plain", 256, 256, 24) as writer:
            writer.write(plain)
        assert not found(client, (tmp_path / "plain" / "00000.png").read_bytes()).json()["marked"]
    assert list(served.service.spool.new.iterdir()) == []


def test_a_signature_is_checked(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    from animate_rt.runtime.marks.credentials import Credentials

    chain, key, _loaded = write_certificate(tmp_path)
    scene = Scene("held-out", 4, 256)
    marks = Marks(Payload(7), credentials=Credentials.read(chain, key))
    with open_writer(tmp_path / "clip.mp4", 256, 256, 24, marks=marks) as writer:
        writer.write(scene.frame(0))
    with served.client() as client:
        assert found(client, (tmp_path / "clip.mp4").read_bytes()).json()["c2pa"]["state"] == "valid"


@pytest.mark.parametrize(
    ("content", "name", "status"),
    [
        (b"no picture", "file", 422),
        (b"", "file", 422),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "file", 422),
        (b"x", "input_reference", 400),
        (bytes(SMALL_LIMIT + 1), "file", 413),
    ],
)
def test_what_cannot_be_looked_into(served: Served, content: bytes, name: str, status: int) -> None:
    with served.client() as client:
        error_of(found(client, content, name), status)
    assert list(served.service.spool.new.iterdir()) == []


def test_detect_takes_one_file(served: Served) -> None:
    with served.client() as client:
        error_of(client.post("/v1/detect", json={}), 415)
        error_of(client.post("/v1/detect", data={"file": "x", "more": "y"}, files={"file": b"x"}), 400)


def test_bad_marks_are_refused_before_the_server_starts(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", str(small_bundle), "--port", "0"]
    assert main([*command, "--c2pa-cert", str(tmp_path / "chain.pem")]) == ConfigError.exit_status
    assert len(capsys.readouterr().err.splitlines()) == 1
