"""Hostile requests: absurd lengths, slow uploads, names that are paths. The server goes on then."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from animate_rt.runtime.service import Limits
from animate_rt.runtime.service.http import server
from animate_rt.runtime.service.http.uploads import UploadLimits

from .serving import Command, Form, Served, create, ended, enduring, error_of, unharmed

MIB = 1 << 20
LIMITS = UploadLimits(picture_bytes=MIB, video_bytes=2 * MIB, patience_s=1.0, bytes_per_s=1 << 20)
FRAMES, CHECK_S = 60, 20.0


@pytest.fixture(scope="module")
def served(small_bundle: Path, form: Form) -> Iterator[Served]:
    with enduring(small_bundle, form, LIMITS, Limits(frames=FRAMES, check_s=CHECK_S)) as served:
        yield served


@pytest.fixture(autouse=True)
def client(served: Served) -> Iterator[httpx.Client]:
    with unharmed(served) as client:
        yield client


def raw(served: Served, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes until an answer comes, and return it. It is empty if the server closes without one."""
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            if select.select([connection], [], [], pause)[0]:
                break
        try:
            return connection.recv(1 << 16)
        except ConnectionResetError:
            return b""


def head(*lines: str) -> bytes:
    first = ("POST /v1/videos HTTP/1.1", "Host: localhost", "Content-Type: multipart/form-data; boundary=b")
    return "\r\n".join((*first, *lines, "", "")).encode()


def part(name: str, content: bytes, file_name: str = "x") -> bytes:
    line = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n\r\n'
    return line.encode() + content + b"\r\n"


def test_an_absurd_declared_length_is_refused_at_once(served: Served) -> None:
    began = time.monotonic()
    answer = raw(served, head("Content-Length: 10000000000"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert time.monotonic() - began < 5
    for length in ("99999999999999999999999999", "-1", "1e9", "1, 2"):
        assert raw(served, head(f"Content-Length: {length}")).startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


def test_what_is_larger_than_declared_or_not_declared_is_counted(client: httpx.Client) -> None:
    """Of a body without a length, no more than the limit is kept."""

    def endless() -> Iterator[bytes]:
        yield part("control_reference", b"")[:-2]
        for _ in range(64):
            yield bytes(MIB)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/videos", content=endless(), headers=headers)
    assert error_of(answer, 413)["param"] == "control_reference"


@pytest.mark.parametrize(("field", "size"), [("picture", MIB + 1), ("pose", 2 * MIB + 1), ("prompt", 70_000)])
def test_each_part_has_its_limit(client: httpx.Client, form: Form, field: str, size: int) -> None:
    content: Any = "x" * size if field == "prompt" else bytes(size)
    error = error_of(client.post("/v1/videos", **form(**{field: content})), 413)
    assert error["code"] == "too_large"


def test_a_slow_upload_times_out(served: Served) -> None:
    began = time.monotonic()
    drops = [b"x" for _ in range(60)]
    answer = raw(served, head("Content-Length: 1000"), part("input_reference", b"")[:-2], *drops, pause=0.1)
    assert 0.9 < time.monotonic() - began < 10
    assert b"408" in answer.split(b"\r\n")[0]


def test_slow_headers_time_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_S", 0.5)
    began = time.monotonic()
    assert raw(served, *(b"G", b"ET / HTTP/1.1\r\nA: ", *(b"x" for _ in range(60))), pause=0.1) == b""
    assert time.monotonic() - began < 8


def test_an_upload_that_breaks_off_leaves_nothing(served: Served, form: Form) -> None:
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head("Content-Length: 5000") + part("input_reference", form.picture)[:900])


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\x00b", "lock", ".", "job.json", "x" * 3000]
)
def test_names_of_files_are_not_paths(served: Served, client: httpx.Client, form: Form, name: str) -> None:
    before = {path.name for path in served.service.spool.path.rglob("*")}
    fields = form()
    fields["files"] = {field: (name, content) for field, (_, content) in fields["files"].items()}
    video = ended(client, create(client, fields)["id"])
    assert video["status"] == "completed"
    names = {path.name for path in served.service.spool.path.rglob("*")} - before
    assert names <= {video["id"], "job.json", "shot.jsonl", f"{video['id']}.mp4", f"{video['id']}.mp4.json"}


@pytest.mark.parametrize("field", ["../x", "input_reference/../../x", "", "a" * 5000, "lock"])
def test_names_of_fields_are_not_paths(served: Served, field: str) -> None:
    body = part(field, b"content") + b"--b--\r\n"
    answer = raw(served, head(f"Content-Length: {len(body)}", "Connection: close") + body)
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_headers_cannot_be_injected(served: Served, client: httpx.Client, form: Form) -> None:
    injected = "x\r\nX-Injected: yes\r\n\r\n<script>"
    fields = form(prompt=injected, model=injected)
    answer = client.post("/v1/videos", **fields)
    assert answer.status_code == 200
    assert answer.json()["prompt"] == injected
    content = client.get(f"/v1/videos/{ended(client, answer.json()['id'])['id']}/content")
    for each in (
        answer,
        content,
        client.get("/v1/videos/x%0d%0aX-Injected:%20yes"),
        client.get("/v1/videos", params={"after": injected}),
        client.post("/v1/videos", headers={"Idempotency-Key": "é".encode()}, **form()),
    ):
        assert "x-injected" not in each.headers
        assert "X-Injected: yes\r\n" not in str(each.headers)
    for line in ("Idempotency-Key: a\rX-Injected: yes", "A: b\nX: c\n\n"):
        answer_bytes = raw(served, head(line, "Content-Length: 0"))
        assert b"x-injected" not in answer_bytes.split(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b--\r\n",
        b"\r\n" * 1000,
        b"--c\r\n\r\n--c--\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"A: b\r\n" * 50 + b"\r\nx\r\n--b--\r\n",
        b"--b\r\nA: " + b"x" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
        b"".join(b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % n for n in range(99)),
        part("input_reference", b"x") * 2 + b"--b--\r\n",
        part("input_reference", b"", "") * 99 + b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="prompt[image_url]"\r\n\r\nx\r\n' * 2 + b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--b--\r\n',
    ],
)
def test_broken_forms(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    error_of(client.post("/v1/videos", content=body, headers=headers), 400)


@pytest.mark.parametrize("boundary", ["", "x" * 5000, '"', "\x80"])
def test_bad_boundaries(client: httpx.Client, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}".encode("latin-1")}
    assert client.post("/v1/videos", content=b"--x--", headers=headers).status_code in (400, 415)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "data:image/png,plain",
        "data:image/png;base64,***",
        '{"image_url": "https://example.com/a.png"}',
        "data:" + "x" * 5000,
    ],
)
@pytest.mark.parametrize("name", ["input_reference", "input_reference[image_url]"])
def test_urls_are_not_read(client: httpx.Client, form: Form, url: str, name: str) -> None:
    files = {"control_reference": form()["files"]["control_reference"]}
    error = error_of(client.post("/v1/videos", data={name: url}, files=files), 400)
    assert error["param"] == "input_reference"


@pytest.mark.slow
def test_memory_of_a_large_upload(small_bundle: Path, form: Form, capsys: pytest.CaptureFixture[str]) -> None:
    """Files go to disk, whatever their size; the answer to one that is too large comes while it is sent."""
    with Command(small_bundle, "--max-video-mib", "300") as server:
        server.wait_until_ready()
        create(server.client, form())
        before = resident(server)
        for mib, status in ((290, 422), (310, 413)):
            began = time.monotonic()
            error_of(server.client.post("/v1/videos", **form(pose=bytes(mib * MIB))), status)
            with capsys.disabled():
                print(f"\nupload of {mib} MiB: {time.monotonic() - began:.1f} s")
        grown = resident(server) - before
    with capsys.disabled():
        print(f"resident memory before: {before >> 20} MiB, grown by {grown >> 20} MiB")
    assert grown < 64 * MIB


def resident(server: Command) -> int:
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):  # the most so far
            return 1024 * int(line.split()[1])
    raise AssertionError
