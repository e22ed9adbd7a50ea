"""The route /v1/detect: whether a file is marked as generated."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel

from ....errors import InputError, QueueFull
from ..jobs import public
from ..service import Service
from .descriptions import failures
from .failures import Refused
from .uploads import UploadLimits, receive_form

FIELD = "file"
MAX_WAITING = 8  # requests that are received or looked into


class WatermarkFound(BaseModel):
    found: bool
    name: str
    bits: str | None  # none unless all are right with a probability of 0.999
    product: str | None  # the first half of the bits
    job: str | None  # and the second
    bits_confidence: float | None  # the probability that all are right; none unless the watermark was found
    confidence: float
    false_positive_rate: float  # how often files without the watermark look as marked as this one, at most
    frames: int  # that were looked into


class SignatureFound(BaseModel):
    state: Literal["none", "valid", "invalid", "not checked"]
    why: list[str]  # codes of what is wrong
    signer: str
    source_type: str


class MetadataFound(BaseModel):
    source_type: str  # IPTC's term, such as trainedAlgorithmicMedia
    detector: str
    has_c2pa: bool


class Marks(BaseModel):
    """What a file says of itself, and what is hidden in it."""

    object: Literal["marks"] = "marks"
    marked: bool
    watermark: WatermarkFound
    c2pa: SignatureFound
    metadata: MetadataFound


def detection(service: Service, limits: UploadLimits) -> APIRouter:
    router = APIRouter(tags=["marks"])
    waiting = 0
    looking = anyio.CapacityLimiter(2)  # threads; files are looked into one by one
    schema = {
        "type": "object",
        "properties": {FIELD: {"type": "string", "format": "binary", "description": "A picture or video."}},
        "required": [FIELD],
        "additionalProperties": False,
    }
    form = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}

    @router.post("/v1/detect", responses=failures(400, 408, 413, 415, 422, 429, 507), openapi_extra=form)
    async def detect(request: Request) -> Marks:
        """Tell whether a picture or video is marked as generated. The file is not kept."""
        nonlocal waiting
        if waiting >= MAX_WAITING:
            raise QueueFull(f"server: expected fewer than {MAX_WAITING} files at once, found as many")
        waiting += 1
        folder = None
        try:
            folder = await asyncio.to_thread(service.spool.start)
            upload = await receive_form(request, folder, limits, {FIELD: limits.video_bytes})
            if upload.texts or FIELD not in upload.files:
                raise Refused(400, f"{FIELD}: expected an uploaded file and nothing else", param=FIELD)
            path = upload.files[FIELD]
            found: dict[str, Any] = await anyio.to_thread.run_sync(
                service.detector.detect, path, limiter=looking
            )
            return Marks.model_validate(found)
        except InputError as error:
            if folder is not None:
                error.args = (public(error, folder),)
            raise
        finally:
            waiting -= 1
            if folder is not None:
                await asyncio.to_thread(shutil.rmtree, folder, True)

    return router
