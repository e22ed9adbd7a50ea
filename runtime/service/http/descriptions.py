"""Descriptions of answers, for OpenAPI."""

from __future__ import annotations

from typing import Any

from .failures import ErrorBody

POLL_HEADER = {"openai-poll-after-ms": {"schema": {"type": "integer"}}}
MP4, EVENTS = "video/mp4", "text/event-stream"
EVENT = {
    "type": "object",
    "properties": {
        "event": {"const": "status"},
        "data": {
            "type": "string",
            "description": "The Video object as JSON.",
            "contentMediaType": "application/json",
        },
    },
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of error answers for OpenAPI."""
    return {status: {"model": ErrorBody} for status in (*statuses, 401, 403)} | {"4XX": {"model": ErrorBody}}


def media(*types: str) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that is a file."""
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in types}}}


def polled() -> dict[int | str, dict[str, Any]]:
    return {200: {"headers": POLL_HEADER}}
