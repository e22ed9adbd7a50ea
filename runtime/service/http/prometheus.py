"""Metrics for Prometheus: those of the service, of HTTP requests and of the process."""

from __future__ import annotations

from time import monotonic
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..metrics import HELP, LABELS

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
REQUEST_SECONDS = "http_server_request_duration_seconds"  # OpenTelemetry's http.server.request.duration
REQUEST_LABELS = ("http_request_method", "http_route", "http_response_status_code")
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
METHODS = {"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"}


class PrometheusMetrics:
    """Keeps the measurements of a service. Implements `Metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Histogram(
            REQUEST_SECONDS,
            "Duration of HTTP requests, up to the end of the answer.",
            REQUEST_LABELS,
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.collectors: dict[str, Any] = {name: self._collector(name) for name in HELP}

    def _collector(self, name: str) -> Counter | Histogram | Gauge:
        labels, registry = LABELS.get(name, ()), self.registry
        if name.endswith("_total"):
            return Counter(name, HELP[name], labels, registry=registry)
        if name.endswith("_seconds"):
            return Histogram(name, HELP[name], labels, buckets=JOB_BUCKETS, registry=registry)
        return Gauge(name, HELP[name], labels, registry=registry)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        self._child(name, labels).inc(amount)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        self._child(name, labels).observe(max(0.0, seconds))

    def set(self, name: str, value: float) -> None:
        self.collectors[name].set(value)

    def text(self) -> bytes:
        """All measurements, in the text format."""
        return generate_latest(self.registry)

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        return self.collectors[name].labels(**labels) if labels else self.collectors[name]


class RequestTimes:
    """Measures every request, by its route and not its path, so that clients cannot add series."""

    def __init__(self, app: ASGIApp, metrics: PrometheusMetrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = monotonic(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            route = getattr(scope.get("route"), "path", "")
            self.metrics.requests.labels(method, route, str(status)).observe(monotonic() - began)
