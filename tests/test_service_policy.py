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
from animate_rt.runtime.service.http.failures import refusal_of

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


def test_marks_of_a_service_can_be_switched_off(small_bundle: Path, small: Case, tmp_path: Path) -> None:
    marks = MarkOptions(watermark=False, metadata=False)
    with service_with(small_bundle, None, tmp_path / "spool", marks=marks) as service:
        job = service.submit(request(small))
        path = job.result(60)
        assert not detect(path).metadata.source_type
        recorded = json.loads(path.with_name(f"{path.name}.json").read_text())["marks"]
        assert recorded == {"watermark": None, "metadata": False, "label": False, "c2pa": False}
