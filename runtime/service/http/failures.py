"""Failures as answers: JSON with a code and one line, without a path or traceback of the server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from ....errors import (
    AnimateError,
    Cancelled,
    ConfigError,
    DeadlineMissed,
    InputError,
    KeyReused,
    OutOfMemory,
    OutputError,
    QueueFull,
    Rejected,
)
from ....errors import Refused as ContentRefused
from ....text import message_of, one_line, quoted
from ..job import error_class

STATUSES: dict[type[AnimateError], int] = {
    ConfigError: 400,
    ContentRefused: 403,
    KeyReused: 409,
    InputError: 422,
    DeadlineMissed: 422,
    QueueFull: 429,
    Rejected: 503,
    OutputError: 507,
}
# Errors whose messages are about the request. Others may name files of the server.
PUBLIC = (
    ConfigError,
    ContentRefused,
    InputError,
    Rejected,
    DeadlineMissed,
    KeyReused,
    Cancelled,
    OutOfMemory,
)
CODES = {400: "request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
TYPES = {401: "authentication_error", 429: "rate_limit_error"}
# Fields of a request by the names that the library has for them.
FIELDS = {
    "steps": "num_inference_steps",
    "frames": "num_frames",
    "reference": "input_reference",
    **dict.fromkeys(("pose", "poses", "driving", "keypoints"), "control_reference"),
}
SUBJECT = re.compile(r"(cannot read )([a-z_]+)(?= as )|([a-z_]+)(?:\.[a-z0-9]+)?(?=: )")
RETRY_S = 5  # while the server starts or stops


class ErrorDetail(BaseModel):
    code: str
    message: str
    param: str | None = None
    type: str
    retryable: bool


class ErrorBody(BaseModel):
    error: ErrorDetail


class Refused(Exception):
    """A request that gets an error as its answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        param: str | None = None,
        retryable: bool = False,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.retryable = status, message, param, retryable
        self.code = code or CODES.get(status, "request")
        self.headers = dict(headers or {})

    def answer(self) -> JSONResponse:
        kind = TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        detail = ErrorDetail(
            code=self.code,
            message=one_line(self.message),
            param=self.param,
            type=kind,
            retryable=self.retryable,
        )
        # Clients of OpenAI's kind otherwise repeat every request that got 409.
        headers = {"x-should-retry": "true" if self.retryable else "false"} | self.headers
        return JSONResponse(ErrorBody(error=detail).model_dump(), self.status, headers)


def refusal_of(error: AnimateError) -> Refused:
    """The answer to a request that raised this error."""
    status = next((number for kind, number in STATUSES.items() if isinstance(error, kind)), 500)
    message, param = public_message(type(error), message_of(error))
    headers = {}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    elif status == 503:
        headers["retry-after"] = str(RETRY_S)
    return Refused(
        status,
        message,
        code=error.code,
        param=param,
        retryable=error.retryable or status == 507,
        headers=headers,
    )


def public_message(kind: type[AnimateError] | str, message: str) -> tuple[str, str | None]:
    """A message for clients, and the field of the request that it is about."""
    kind = error_class(kind) if isinstance(kind, str) else kind
    if not issubclass(kind, PUBLIC):
        if issubclass(kind, OutputError):
            return "server: expected room for the job on its disk, found too little; try again later", None
        return "server: the clip could not be made; the server's log says why", None
    subject = SUBJECT.match(message)
    if subject is None:
        return message, None
    name = subject[2] or subject[3]
    field = FIELDS.get(name, name)
    return f"{subject[1] or ''}{field}{message[subject.end() :]}", field


def not_found(what: str, name: str, param: str | None = None) -> Refused:
    return Refused(404, f"{what}: expected one that exists, found no {quoted(name)}", param=param)


def add_handlers(app: FastAPI) -> None:
    """Let an application answer all errors like this."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        return error.answer()

    @app.exception_handler(AnimateError)
    async def animate_error(_request: Request, error: AnimateError) -> JSONResponse:
        return refusal_of(error).answer()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        found = quoted(first.get("input", ""))
        return Refused(400, f"{name}: {first['msg']}, found {found}", param=name).answer()

    @app.exception_handler(HTTPException)
    async def by_status(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:  # the router names the methods of one route only
            headers["allow"] = ", ".join(allowed_methods(request))
        return Refused(error.status_code, f"request: {phrase}", headers=headers).answer()

    @app.exception_handler(Exception)
    async def internal(_request: Request, _error: Exception) -> JSONResponse:
        return Refused(500, "server: internal error; the server's log says more", code="internal").answer()


def allowed_methods(request: Request) -> list[str]:
    """The documented methods at the path of a request."""
    paths, path = request.app.openapi()["paths"], request.scope["path"]
    fitting = [path] if path in paths else [each for each in paths if compile_path(each)[0].match(path)]
    return sorted({method.upper() for each in fitting for method in paths[each]})
