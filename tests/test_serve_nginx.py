"""Two servers behind nginx, as docs/examples/nginx.conf has it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import animate_rt
import pytest
from openai import OpenAI

from .conftest import Case
from .service_requests import truth
from .serving import Command, Form, free_port, pose_file

CONFIGURATION = Path(animate_rt.__file__).parent / "docs" / "examples" / "nginx.conf"


@contextmanager
def nginx(folder: Path, *servers: int) -> Iterator[str]:
    """The example with other ports, and its URL."""
    port, text = free_port(), CONFIGURATION.read_text()
    for old, new in ((8000, port), *zip((8001, 8002), servers, strict=True)):
        text = re.sub(rf"^( *(?:listen |server 127.0.0.1:)){old};", rf"\g<1>{new};", text, flags=re.MULTILINE)
    configuration = folder / "nginx.conf"
    configuration.write_text(f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off;\n{text}}}")
    command = ["nginx", "-p", str(folder), "-c", str(configuration), "-e", str(folder / "nginx.log")]
    process = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is missing")
def test_clients_behind_nginx_stay_with_their_server(small: Case, small_bundle: Path, tmp_path: Path) -> None:
    form = Form(small, tmp_path)
    expected = truth(small_bundle, small, tmp_path / "truth.mp4", pose=pose_file(small, tmp_path))
    tokens = [f"a-token-of-the-tests-{number}" for number in range(6)]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    options = ("--token-file", str(tmp_path / "tokens"), "--spool")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(Command(small_bundle, *options, str(tmp_path / name))) for name in ("a", "b")
        ]
        for server in servers:
            server.wait_until_ready()
        url = stack.enter_context(nginx(tmp_path, *(server.client.base_url.port or 0 for server in servers)))
        clients = [OpenAI(base_url=url, api_key=token, max_retries=5) for token in tokens]

        def make(client: OpenAI) -> bytes:
            video = client.videos.create_and_poll(**form.keywords())
            return client.videos.download_content(video.id).content

        with ThreadPoolExecutor(len(clients)) as pool:
            assert set(pool.map(make, clients)) == {expected}
        listed = [frozenset(video.id for video in client.videos.list()) for client in clients]
        assert len({*listed}) == 2
        assert sum(map(len, {*listed})) == len(clients)

        servers[0].terminate()
        servers[0].end()
        assert {make(client) for client in clients} == {expected}
