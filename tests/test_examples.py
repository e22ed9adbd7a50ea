"""The examples in docs/examples, run as they are."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import animate_rt
import httpx
import pytest

from .conftest import Case
from .service_requests import truth
from .serving import FRAMES, Form, free_port, pose_file, serving

EXAMPLES = Path(animate_rt.__file__).parent / "docs" / "examples"
REPLICAS = 2


def made_by_hand(bundle: Path, case: Case, folder: Path) -> bytes:
    """The mp4 of `Form`, made by an animator."""
    return truth(bundle, case, folder / "truth.mp4", pose=pose_file(case, folder))


@contextmanager
def ray_serve(bundle: Path, folder: Path) -> Iterator[str]:
    """The example in a session of its own; its URL."""
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "ray_serve.py"), str(bundle), "--port", str(port)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DISABLE_IMPORT_WARNING": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--replicas", str(REPLICAS)],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # stops Ray in good order
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


def replicas() -> list[int]:
    """Numbers of the processes that run replicas of the example."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::ServeReplica:default:Clips"):
                found.append(int(process.name))
    return found


def post(url: str, route: str, form: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/videos/{route}", timeout=120, trust_env=False, **form)


def until_made(url: str, form: dict[str, Any], seconds: float) -> bytes:
    """Ask again, as a client does, until a clip is made."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = post(url, "sync", form)
            if answer.status_code == 200:
                return answer.content
            assert answer.status_code in (404, 500, 503), answer.text  # not started yet, or died meanwhile
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.slow
def test_ray_serve_goes_on_when_a_replica_is_killed(
    small: Case, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp_cors", reason="the packages of ray[serve] are missing")
    form = Form(small, tmp_path)
    expected = made_by_hand(small_bundle, small, tmp_path)
    assert not replicas(), "another test of Ray Serve runs on this machine"
    with ray_serve(small_bundle, tmp_path) as url:
        assert until_made(url, form(), 300) == expected

        stream = post(url, "stream", form())
        assert stream.headers["content-type"] == "video/mp4"
        assert stream.content.count(b"moof") == FRAMES
        refused = post(url, "sync", form(num_inference_steps="0"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "config")

        with ThreadPoolExecutor(20) as pool:  # both replicas are busy, and the queue is full
            many = [
                *pool.map(lambda _: post(url, "sync", form(num_inference_steps="8")).status_code, range(20))
            ]
            assert set(many) == {200, 503}

            while len(before := replicas()) < REPLICAS:
                time.sleep(0.1)
            made = [pool.submit(until_made, url, form(), 300) for _ in range(6)]
            time.sleep(0.3)
            os.kill(before[0], signal.SIGKILL)
            assert all(clip.result() == expected for clip in made)
            began = time.monotonic()
            while len(set(replicas()) - {before[0]}) < REPLICAS:
                assert time.monotonic() < began + 120
                time.sleep(0.1)
        assert until_made(url, form(), 60) == expected
        with capsys.disabled():
            print(
                f"\nof 20 requests at once, {many.count(503)} were refused; a replica was killed and replaced"
            )


class Failed(Exception):
    """Stands for gradio.Error."""


def gradio_app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module; with stand-ins for gradio's classes if it is not installed."""
    if not find_spec("gradio"):
        names = ("Progress", "Interface", "Image", "File", "Radio", "Slider", "Video")
        made: dict[str, Any] = {name: lambda *_, **keys: SimpleNamespace(**keys) for name in names}
        module = ModuleType("gradio")
        vars(module).update(made | {"Error": Failed})
        monkeypatch.setitem(sys.modules, "gradio", module)
    spec = spec_from_file_location("gradio_app", EXAMPLES / "gradio_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    code = ast.parse((EXAMPLES / "gradio_app.py").read_text())
    # Annotations name gradio's classes.
    code.body.insert(1, ast.parse("from __future__ import annotations").body[0])
    exec(compile(ast.fix_missing_locations(code), spec.name, "exec"), vars(module))
    return module


def test_the_gradio_page_makes_a_clip(
    small: Case, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = gradio_app(monkeypatch)
    pose = pose_file(small, tmp_path)
    seen: list[float] = []

    def progress(done: float, desc: str) -> None:
        assert desc
        seen.append(done)

    with serving(small_bundle) as served, served.client() as client:
        monkeypatch.setattr(page, "SERVER", client)
        made = page.animate(str(small.reference), str(pose), "pose", 2, progress)
        assert Path(made).read_bytes() == made_by_hand(small_bundle, small, tmp_path)
        assert seen == sorted(seen)
        assert len(seen) >= 1
        with pytest.raises(Exception, match="expected"):
            page.animate(str(small.reference), str(small.reference), "keypoints", 2, progress)
