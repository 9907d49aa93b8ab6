"""What /metrics tells Prometheus: requests as they were answered, and what the engines count."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import Scope

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Of one server. Routes are counted by their templates, so that no client can make up new ones."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self.requests = Counter("linnet_http_requests", "requests answered", labels, registry=self.registry)
        self.seconds = Histogram(
            "linnet_http_request_seconds",
            "seconds from a request to the end of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def count_request(self, scope: Scope, status: int | None, seconds: float) -> None:
        """status: None where the client left before there was one."""
        route = getattr(scope.get("route"), "path", "other")
        method = scope.get("method", "WEBSOCKET") if route != "other" else "other"
        self.requests.labels(route, method, "left" if status is None else str(status)).inc()
        self.seconds.labels(route).observe(seconds)
