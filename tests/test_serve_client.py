"""The openai client as it comes from PyPI, against the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from .conftest import Case
from .service_requests import held, truth
from .serving import LONG, TOKEN, Form, Served, pose_file, serving

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Served]:
    with serving(small_bundle, tokens=(TOKEN,)) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key=TOKEN) as client:
        yield client


def test_create_and_poll_then_download(
    client: OpenAI, form: Form, small: Case, small_bundle: Path, tmp_path: Path
) -> None:
    video = client.videos.create_and_poll(**form.keywords())
    assert (video.object, video.status, video.progress) == ("video", "completed", 100)
    assert (video.size, video.seconds, video.prompt) == ("64x96", "0.6", "a walk")
    assert video.created_at <= video.completed_at < video.expires_at
    content = client.videos.download_content(video.id)
    assert content.response.headers["content-type"] == "video/mp4"

    expected = truth(small_bundle, small, tmp_path / "truth.mp4", pose=pose_file(small, tmp_path))
    assert content.read() == expected
    assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"


def test_create_retrieve_list_delete(client: OpenAI, form: Form, served: Served) -> None:
    with held(served.service):
        videos = [client.videos.create(**form.keywords(seed=seed)) for seed in range(3)]
        assert all(video.status in ("queued", "in_progress") for video in videos)
    assert client.videos.retrieve(videos[0].id).id == videos[0].id
    listed = [video.id for video in client.videos.list(limit=2)]  # goes on with the next page by itself
    assert listed[:3] == [video.id for video in reversed(videos)]
    for video in videos:
        client.videos.poll(video.id)
        assert client.videos.delete(video.id).deleted is True
        with pytest.raises(openai.NotFoundError, match="expected one that exists"):
            client.videos.retrieve(video.id)


def test_deleting_a_running_job_stops_it(client: OpenAI, form: Form, served: Served) -> None:
    video = client.videos.create(**form.keywords(num_inference_steps=LONG))
    job = served.service.get(video.id)
    assert client.videos.delete(video.id).deleted is True
    assert job is not None
    assert job.status.state == "cancelled"
    assert not job.folder.exists()


def test_a_bad_request_is_an_error_of_the_client(client: OpenAI, form: Form) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(**form.keywords() | {"size": "720x1280"})
    assert (caught.value.code, caught.value.param) == ("config", "size")
    with pytest.raises(openai.UnprocessableEntityError, match="cannot read input_reference as a picture: "):
        client.videos.create(**form.keywords() | {"input_reference": ("hero.png", b"no picture")})


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["64x96"]
    assert client.models.retrieve("64x96").owned_by == "animate-rt"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("sora-2")


def test_a_wrong_token(served: Served) -> None:
    with (
        OpenAI(base_url=f"{served.url}/v1", api_key="another") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


async def poll(url: str, form: Form) -> str:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN) as client:
        video = await client.videos.create_and_poll(**form.keywords())
        return video.status


def test_the_asynchronous_client(served: Served, form: Form) -> None:
    assert asyncio.run(poll(served.url, form)) == "completed"
