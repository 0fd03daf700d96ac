"""Metrics for Prometheus, and the ASGI application that shows them.

Counters of sessions include those that run: a push of an hour is seen while it goes on. Names and
meanings are in docs/observability.md, which a test holds against what is shown; no label takes a
value that a client chooses. Each server process shows its own figures.
"""

import hmac
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..adapters.object_store import StoreUsage
from ..adapters.page_storage import MapCacheUsage
from .edge import ASGIApp, Receive, Scope, Send
from .measures import Measures, RunningSession

COMMIT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OPERATIONS: Final = ("puts", "gets", "lists", "deletes")


class Metrics(Measures):
    """Counts. `watch_storage` joins it to what is read only when somebody asks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._running: set[RunningSession] = set()
        self._pages: Tally[str] = Tally()
        self._bytes: Tally[tuple[str, str]] = Tally()
        self._ended = Counter(
            "edgereplica_sessions_ended",
            "Sync sessions that have ended, by the last state of their machine",
            ["direction", "state"],
            registry=self.registry,
        )
        self._conflicts = Counter(
            "edgereplica_conflicts",
            "Pushes that found a head that is not their base, and ended there",
            registry=self.registry,
        )
        self._refusals = Counter(
            "edgereplica_refusals",
            "Handshakes, calls and sessions refused, by the code of the error",
            ["where", "reason"],
            registry=self.registry,
        )
        self._commits = Histogram(
            "edgereplica_commit_seconds",
            "How long commits of pushes take, from the last page to the version",
            buckets=COMMIT_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Sessions(self))
        ProcessCollector(registry=self.registry)

    def watch_storage(
        self, usage: Callable[[], StoreUsage], cache: Callable[[], MapCacheUsage]
    ) -> None:
        self.registry.register(_Storage(usage, cache))

    def session_started(self, session: RunningSession) -> None:
        self._running.add(session)

    def session_ended(self, session: RunningSession, *, code: str | None, conflict: bool) -> None:
        self._running.discard(session)
        self._ended.labels(session.direction, session.machine.state_id).inc()
        self._add(session, self._pages, self._bytes)
        if conflict:
            self._conflicts.inc()
        if code is not None:
            self._refusals.labels("session", code).inc()

    def refused(self, where: str, code: str) -> None:
        self._refusals.labels(where, code).inc()

    @contextmanager
    def commit(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._commits.observe(time.perf_counter() - began)

    def totals(self) -> tuple[Tally[str], Tally[tuple[str, str]], Tally[tuple[str, str]]]:
        """Pages by direction, bytes by direction and way, running sessions by direction and
        state."""
        pages, wire, states = self._pages.copy(), self._bytes.copy(), Tally[tuple[str, str]]()
        for session in self._running:
            self._add(session, pages, wire)
            states[session.direction, session.machine.state_id] += 1
        return pages, wire, states

    def _add(
        self, session: RunningSession, pages: Tally[str], wire: Tally[tuple[str, str]]
    ) -> None:
        pages[session.direction] += session.machine.pages
        wire[session.direction, "received"] += session.transport.bytes_received
        wire[session.direction, "sent"] += session.transport.bytes_sent

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Sessions(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        pages, wire, states = self._metrics.totals()
        running = GaugeMetricFamily(
            "edgereplica_sessions",
            "Sync sessions that run, by the state of their machine",
            labels=["direction", "state"],
        )
        for (direction, state), count in states.items():
            running.add_metric([direction, state], count)
        moved = CounterMetricFamily(
            "edgereplica_pages", "Pages received in pushes and sent in pulls", labels=["direction"]
        )
        for direction in ("push", "pull"):
            moved.add_metric([direction], pages[direction])
        carried = CounterMetricFamily(
            "edgereplica_wire_bytes",
            "Bytes of the frames of sync sessions",
            labels=["direction", "way"],
        )
        for direction in ("push", "pull"):
            for way in ("received", "sent"):
                carried.add_metric([direction, way], wire[direction, way])
        return [running, moved, carried]


class _Storage(Collector):
    def __init__(self, usage: Callable[[], StoreUsage], cache: Callable[[], MapCacheUsage]) -> None:
        self._usage = usage
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        usage, cache = self._usage(), self._cache()
        requests = CounterMetricFamily(
            "edgereplica_store_requests", "Requests to the page store", labels=["operation"]
        )
        for operation in _OPERATIONS:
            requests.add_metric([operation.removesuffix("s")], getattr(usage, operation))
        moved = CounterMetricFamily(
            "edgereplica_store_bytes",
            "Bytes written to and read from the page store",
            labels=["way"],
        )
        moved.add_metric(["written"], usage.put_bytes)
        moved.add_metric(["read"], usage.get_bytes)
        lookups = CounterMetricFamily(
            "edgereplica_map_cache_lookups", "Page maps asked for", labels=["result"]
        )
        lookups.add_metric(["hit"], cache.hits)
        lookups.add_metric(["miss"], cache.misses)
        held = GaugeMetricFamily("edgereplica_map_cache_bytes", "Bytes of page maps in the cache")
        held.add_metric([], cache.held_bytes)
        return [requests, moved, lookups, held]


def metrics_app(metrics: Metrics, token: str) -> ASGIApp:
    """`GET /metrics`, for the bearer of `token` if there is one; 404 for everything else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, body, kind = 404, b"there is nothing at this path\n", "text/plain"
        if scope["path"] == "/metrics" and scope["method"] in {"GET", "HEAD"}:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
                status, body = 401, b"metrics need their token\n"
            else:
                status, body, kind = 200, metrics.text(), CONTENT_TYPE_LATEST
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
