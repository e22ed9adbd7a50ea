"""The application: all routes of the server, and what every request passes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from threading import Event
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

from ...clip.options import ClipOptions
from ...clip.windows import KnownLength
from ..animators import Place
from ..service import Service
from ..speed import Work
from .auth import Guard
from .descriptions import failures
from .detection import detection
from .failures import add_handlers, not_found
from .prometheus import CONTENT_TYPE, PrometheusMetrics, RequestTimes
from .static import add_page
from .uploads import UploadLimits
from .videos import Videos

API_PAGE = {  # describes the API and shows no job
    "/docs",
    "/openapi.json",
    *(f"/static-offline-docs/{name}" for name in ("favicon.png", "swagger-ui.css", "swagger-ui-bundle.js")),
}


class Defaults(BaseModel):
    steps: int | list[int]  # their number, or the timesteps
    guidance_scale: float
    overlap: int


class ModelLimits(BaseModel):
    frames: int
    picture_bytes: int
    video_bytes: int


class Model(BaseModel):
    """A bundle. Its id, a size, can be given as `model` or `size` of a video."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "animate-rt"
    width: int
    height: int
    size: str
    window: int  # in frames
    pose_style: str | None = None  # of the skeletons that it was trained on
    defaults: Defaults
    limits: ModelLimits
    seconds_per_frame: float | None  # measured, with the default steps


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    status: Literal["alive", "ready", "loading", "draining", "failed"]


def create_app(
    service: Service,
    metrics: PrometheusMetrics,
    *,
    tokens: Sequence[str] = (),
    limits: UploadLimits | None = None,
    closing: Event | None = None,
) -> FastAPI:
    """The application of a service. Set `closing` when the server stops: streams end then."""
    limits = limits or UploadLimits()
    app = FastAPIOffline(  # its page of the API loads nothing from other hosts
        title="animate-rt",
        version=metadata.version("animate-rt"),
        description="A character's picture and something that drives it in, a video out.",
        redoc_url=None,
    )
    add_handlers(app)
    add_models(app, service, limits)
    app.include_router(Videos(service, limits, closing or Event()).router())
    app.include_router(detection(service, limits))
    add_health(app, service, metrics)
    open_paths = add_page(app) | API_PAGE | {"/livez", "/readyz"}
    app.add_middleware(Guard, tokens=tokens, open_paths=open_paths)
    app.add_middleware(RequestTimes, metrics=metrics)
    if tokens:
        add_security(app)
    return app


def add_models(app: FastAPI, service: Service, limits: UploadLimits) -> None:
    created = int(time.time())

    def describe(name: str) -> Model:
        place = service.animators.places[name]
        manifest = place.bundle.manifest
        defaults = ClipOptions().with_defaults(manifest)
        return Model(
            id=name,
            created=created,
            width=manifest.bucket.width,
            height=manifest.bucket.height,
            window=manifest.bucket.window,
            size=name,
            pose_style=manifest.model.pose_style,
            defaults=Defaults.model_validate(asdict(defaults)),
            limits=ModelLimits(
                frames=service.checker.limits.frames,
                picture_bytes=limits.picture_bytes,
                video_bytes=limits.video_bytes,
            ),
            seconds_per_frame=seconds_per_frame(place),
        )

    @app.get("/v1/models", tags=["models"], responses=failures())
    def list_models() -> ModelList:
        """The bundles, with their sizes and limits."""
        return ModelList(data=[describe(name) for name in service.animators.places])

    @app.get("/v1/models/{model_id}", tags=["models"], responses=failures(404))
    def retrieve_model(model_id: str) -> Model:
        """One bundle."""
        if model_id not in service.animators.places:
            raise not_found("model", model_id)
        return describe(model_id)


def seconds_per_frame(place: Place) -> float | None:
    """Expected seconds for a frame of a long clip with default options; None until something is measured."""
    manifest = place.bundle.manifest
    settings = ClipOptions().resolve(manifest)
    num_frames = 10 * manifest.bucket.window
    windows = sum(1 for _ in settings.windows(KnownLength(num_frames)))
    seconds = place.speed.seconds(Work(windows * len(settings.steps), num_frames))
    return None if seconds is None else seconds / num_frames


def add_health(app: FastAPI, service: Service, metrics: PrometheusMetrics) -> None:
    @app.get("/livez", tags=["operations"])
    async def livez() -> Health:
        """Whether the process answers."""
        return Health(status="alive")

    @app.get("/readyz", tags=["operations"], responses={503: {"model": Health}}, response_model=Health)
    async def readyz() -> Response:
        """Whether new jobs are taken."""
        health = Health(status="ready")
        if service.draining:
            health.status = "draining"
        elif not service.ready.is_set():
            health.status = "loading"
        elif service.failure:
            health.status = "failed"
        return JSONResponse(health.model_dump(), 200 if health.status == "ready" else 503)

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", tags=["operations"], response_class=Response, responses=failures() | text)
    def read_metrics() -> Response:
        """Measurements for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    for path, answer in {"/livez": livez, "/readyz": readyz, "/metrics": read_metrics}.items():
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)  # monitors ask so, too


def add_security(app: FastAPI) -> None:
    """Describe in OpenAPI that a token is needed."""
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if path not in ("/livez", "/readyz"):
            for operation in operations.values():
                operation["security"] = [{"token": []}]
