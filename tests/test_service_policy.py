"""The policy of a service: what it is asked, and what is left of a request that it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from animate_rt import AnimateError, ConsentList, MarkOptions, Refused, Service, detect
from animate_rt.runtime.marks.policy import picture_digest
from animate_rt.runtime.media.picture import read_picture
from animate_rt.runtime.service.http.failures import public_message, refusal_of

from .certificates import write_certificate
from .conftest import Case
from .policies import WHY, Recording
from .service_requests import request, truth
from .test_service_live import frames, watch


@contextmanager
def service_with(bundle: Path, policy: object, spool: Path, **options: object) -> Iterator[Service]:
    with Service(bundle, policy=policy, spool=spool, **options) as service:  # type: ignore[arg-type]
        assert service.ready.wait(120)
        yield service


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_policy_sees_the_reference_the_request_and_all_frames(
    small_bundle: Path, small: Case, tmp_path: Path
) -> None:
    policy = Recording()
    with service_with(small_bundle, policy, tmp_path / "spool") as service:
        job = service.submit(request(small, seed=7), labels={"prompt": "a walk"})
        assert job.result(60).read_bytes() == truth(small_bundle, small, tmp_path / "truth.mp4", seed=7)
        (picture,) = policy.pictures
        assert np.array_equal(picture, read_picture(small.reference))
        assert policy.requests == [{"size": "64x96", "labels": {"prompt": "a walk"}, "steps": 2, "seed": 7}]
        assert np.array_equal(policy.frames, frames(job.path))


def test_nothing_is_left_of_a_refused_reference(
    small_bundle: Path, small: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    spool = tmp_path / "spool"
    with service_with(small_bundle, Recording(references=lambda _picture: False), spool) as service:
        before = everything_in(spool)
        with pytest.raises(Refused, match=WHY):
            service.submit(request(small), labels={"prompt": "secret"}, idempotency_key="again")
        assert everything_in(spool) == before
        assert service.list() == []
        with pytest.raises(Refused):  # not the answer of the first request
            service.submit(request(small), idempotency_key="again")
    digest = picture_digest(np.asarray(read_picture(small.reference)))
    lines = [record.getMessage() for record in caplog.records if record.name == "animate_rt"]
    assert lines.count(f"policy: reference {digest} is refused") == 2
    for word in (small.reference.name, WHY, "secret", "again"):
        assert not any(word in line for line in lines), lines


def test_a_refused_frame_is_not_given_away(
    small_bundle: Path, small: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[int] = []
    policy = Recording(frames=lambda frame: seen.append(frame.sum()) or len(seen) < 10)  # type: ignore[func-returns-value]
    with service_with(small_bundle, policy, tmp_path / "spool") as service:
        job = service.submit(request(small))
        with pytest.raises(Refused, match=WHY):
            job.result(60)
        assert job.status.state == "failed"
        assert job.status.error is not None
        assert job.status.error.code == "content_policy"
        assert {path.name for path in job.folder.iterdir()} == {"job.json", "shot.jsonl"}
        assert refusal_of(Refused(WHY)).status == 403
    lines = [record.getMessage() for record in caplog.records if record.name == "animate_rt"]
    assert f"job {job.id}: failed: content_policy" in lines
    assert not any(WHY in line for line in lines)


def test_a_live_video_ends_before_a_refused_frame(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    calls = iter(range(1000))
    policy = Recording(frames=lambda _frame: next(calls) < 4)
    with service_with(small_bundle, policy, tmp_path / "spool") as service:

        async def main() -> bytes:
            job = await service.submit_async(request(small, steps=8, windows="open"))
            return await watch(service, job)

        assert len(frames(asyncio.run(main()))) == 4


def test_a_policy_that_fails_allows_nothing(
    small_bundle: Path, small: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "consents.jsonl"
    broken.write_text("{")
    with service_with(small_bundle, ConsentList(broken), tmp_path / "spool") as service:
        with pytest.raises(AnimateError, match="policy: expected an answer, found InputError") as raised:
            service.submit(request(small))
        assert refusal_of(raised.value).status == 500
        assert service.list() == []
    assert "expected an answer about reference" in caplog.text


class Answering:
    """A policy that returns something, or raises SystemExit."""

    def __init__(self, about_references: object, about_frames: object):
        self.about_references, self.about_frames = about_references, about_frames

    def check_reference(self, _picture: object, _request: object) -> object:
        return answered(self.about_references)

    def check_frames(self, _frames: object) -> object:
        return answered(self.about_frames)


class Waiting(Recording):
    """Refuses everything, but its methods have to be awaited."""

    async def check_reference(self, _picture: object, _request: object) -> None:  # type: ignore[override]
        raise Refused(WHY)


def answered(answer: object) -> object:
    if answer is SystemExit:
        raise SystemExit(0)
    return answer


@pytest.mark.parametrize(
    "policy", [Answering(False, None), Answering(SystemExit, None), Waiting(), Answering]
)
def test_a_policy_that_does_not_refuse_as_it_should_allows_nothing(
    small_bundle: Path, small: Case, tmp_path: Path, policy: object
) -> None:
    with service_with(small_bundle, policy, tmp_path / "spool") as service:
        with pytest.raises(AnimateError, match=r"policy: expected an answer, found (TypeError|SystemExit)"):
            service.submit(request(small))
        assert service.list() == []


@pytest.mark.parametrize("answer", [False, SystemExit])
def test_frames_about_which_a_policy_fails_are_not_given_away(
    small_bundle: Path, small: Case, tmp_path: Path, answer: object
) -> None:
    with service_with(small_bundle, Answering(None, answer), tmp_path / "spool") as service:
        job = service.submit(request(small))
        with pytest.raises(AnimateError, match="policy: expected an answer"):
            job.result(60)
        assert not job.path.exists()
        assert service.submit(request(small)).id != job.id  # its worker lives


def test_the_list_of_consents_is_a_policy(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    consents = ConsentList(tmp_path / "consents.jsonl")
    with service_with(small_bundle, consents, tmp_path / "spool") as service:
        with pytest.raises(Refused, match="expected one with a consent that holds today"):
            service.submit(request(small))
        picture = np.asarray(read_picture(small.reference))
        consents.add(picture, "Ada Miller")
        assert service.submit(request(small)).result(60)
        consents.revoke(picture)
        with pytest.raises(Refused):
            service.submit(request(small))


def test_a_certificate_that_goes_away_fails_jobs_and_its_path_is_not_told(
    small_bundle: Path, small: Case, tmp_path: Path
) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    (tmp_path / "keys").mkdir()
    chain, key, _loaded = write_certificate(tmp_path / "keys")
    marks = MarkOptions(certificate=chain, key=key)
    with service_with(small_bundle, None, tmp_path / "spool", marks=marks) as service:
        assert detect(service.submit(request(small)).result(60)).signature.state == "valid"
        key.unlink()
        job = service.submit(request(small))
        with pytest.raises(AnimateError, match="C2PA: cannot read") as raised:
            job.result(60)
        assert not job.path.exists()
    message, _field = public_message(raised.value.code, str(raised.value))
    assert message == "server: the clip could not be made; the server's log says why"


def test_marks_of_a_service_can_be_switched_off(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    marks = MarkOptions(watermark=False, metadata=False)
    with service_with(small_bundle, None, tmp_path / "spool", marks=marks) as service:
        job = service.submit(request(small))
        path = job.result(60)
        assert not detect(path).metadata.source_type
        recorded = json.loads(path.with_name(f"{path.name}.json").read_text())["marks"]
        assert recorded == {"watermark": None, "metadata": False, "label": False, "c2pa": False}
