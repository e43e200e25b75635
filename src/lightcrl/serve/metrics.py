"""Metrics of the server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


@final
class Metrics:
    """Metrics of one server; several servers in one process have separate metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "lightcrl_requests", "Requests by route and status.", ["route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "lightcrl_request_seconds",
            "Seconds of a request.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "lightcrl_batch_items",
            "Items encoded together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self._encoding = Counter("lightcrl_encoding_seconds", "Seconds of encoding.", registry=self.registry)

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Add a gauge; `value` is called at each request of the metrics."""
        Gauge(f"lightcrl_{name}", what, registry=self.registry).set_function(value)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the route's template, so that item ids do not create series."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, items: int, seconds: float) -> None:
        """Count a batch of the encoder."""
        self._batch.observe(items)
        self._encoding.inc(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
