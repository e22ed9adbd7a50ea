"""The server does what its OpenAPI document says, as schemathesis checks it with generated requests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Case
from .serving import TOKEN, Form, Served, create, ended, serving

# What pictures and videos may be is more than a schema can say: a request that fits it may get 400 or 422.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "416", "422", "429", "503"]
"""


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Served]:
    with serving(small_bundle, tokens=(TOKEN,)) as served:
        yield served


def run(served: Served, folder: Path, *options: str, config: str = CONFIG) -> str:
    """Run schemathesis against the server and return what it prints."""
    program, settings = Path(sys.executable).with_name("schemathesis"), folder / "schemathesis.toml"
    settings.write_text(config)
    command = [
        str(program), "--config-file", str(settings),
        "run", f"{served.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}",
        "--no-color", "--workers", "1", "--seed", "1", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


def generated(output: str) -> int:
    found = re.search(r"(\d+) generated, (\d+) passed", output)
    assert found, output
    return int(found[1])


@pytest.mark.slow
def test_requests_at_the_limits_of_the_document(served: Served, tmp_path: Path) -> None:
    assert generated(run(served, tmp_path, "--phases", "coverage")) > 100


@pytest.mark.slow
def test_random_requests(served: Served, tmp_path: Path) -> None:
    output = run(served, tmp_path, "--phases", "coverage,fuzzing,stateful", "--max-examples", "50")
    assert generated(output) > 500


@pytest.mark.slow
def test_routes_of_a_video_that_exists(served: Served, small: Case, tmp_path: Path) -> None:
    with served.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        video = ended(client, create(client, Form(small, tmp_path)())["id"])
    only = ("--include-path-regex", "video_id", "--exclude-method", "DELETE", "--phases", "coverage,fuzzing")
    config = f'[parameters]\nvideo_id = "{video["id"]}"\n{CONFIG}'
    output = run(served, tmp_path, *only, "--max-examples", "5", config=config)
    assert generated(output) > 20
    assert "404" not in output
