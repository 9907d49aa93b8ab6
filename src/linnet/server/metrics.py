"""The metrics for Prometheus: answered requests, the process's use of the machine, and the counters of the open models' engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client import Counter as RequestCounter
from prometheus_client import Histogram as RequestHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from linnet.engine.counters import Counters, Histogram

if TYPE_CHECKING:
    from linnet.llm import LLM

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_NOW = ("running", "waiting", "pages", "pages_used", "pages_cached")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET")
_LABELS = {"outcomes": "outcome", "finish_reasons": "reason"}


class Metrics:
    """The metrics of one server. Routes are labelled by template and methods from a list, so that no client can invent labels."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files: on Linux only
        self.requests = RequestCounter("linnet_http_requests", "requests answered", ("route", "method", "status"), registry=self.registry)
        help = "seconds from a request to the end of its answer"
        self.seconds = RequestHistogram("linnet_http_request_seconds", help, ("route",), buckets=_SECONDS, registry=self.registry)

    def count_request(self, scope: Scope, status: int | None, seconds: float) -> None:
        """status: None if the client left before there was one."""
        route = getattr(scope.get("route"), "path", "other")
        method = scope.get("method", "WEBSOCKET")
        method = method if route != "other" and method in _METHODS else "other"
        self.requests.labels(route, method, "left" if status is None else str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def exposition(self, models: Mapping[str, LLM]) -> bytes:
        """All metrics in Prometheus' text format; those of a model carry its name."""
        engines = CollectorRegistry()
        engines.register(_Engines({name: llm.counters() for name, llm in models.items()}))
        return generate_latest(self.registry) + generate_latest(engines)


class _Engines(Collector):
    """One metric for every field of `Counters`, labelled by model."""

    def __init__(self, counters: Mapping[str, Counters]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        if not self._counters:
            return
        for f in fields(Counters):
            yield self._family(f.name)

    def _family(self, field: str) -> Metric:
        values = {model: getattr(counters, field) for model, counters in self._counters.items()}
        name, help = f"linnet_{field}", f"{field.replace('_', ' ')} (see linnet.engine.counters)"
        if field in _LABELS:
            labelled = CounterMetricFamily(name, help, labels=("model", _LABELS[field]))
            for model, counts in values.items():
                for label, count in counts.items():
                    labelled.add_metric((model, label), count)
            return labelled
        if isinstance(next(iter(values.values())), Histogram):
            histogram = HistogramMetricFamily(name, help, labels=("model",))
            for model, value in values.items():
                histogram.add_metric((model,), list(_buckets(value)), value.total)
            return histogram
        family = (GaugeMetricFamily if field in _NOW else CounterMetricFamily)(name, help, labels=("model",))
        for model, value in values.items():
            family.add_metric((model,), value)
        return family


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Bounds, each with how many values are at most that: Prometheus' buckets are cumulative."""
    within = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        within += count
        yield ("+Inf" if bound == float("inf") else str(bound)), within
