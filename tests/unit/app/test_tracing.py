"""Traces: off and unimported by default, on by OpenTelemetry's own variables."""

import gzip
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from edgereplica.app.tracing import Tracing, tracing_of, wanted
from edgereplica.events.errors import InvalidArgument

TRACE = "0af7651916cd43dd8448eb211c80319c"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
        ({ENDPOINT: "http://127.0.0.1:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({ENDPOINT: ""}, None),
    ],
)
def test_what_the_environment_asks_for(environment: dict[str, str], exporter: str | None) -> None:
    assert wanted(environment) == exporter


def test_what_is_not_understood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="OTEL_TRACES_EXPORTER"):
        wanted({"OTEL_TRACES_EXPORTER": "zipkin"})
    grpc = {ENDPOINT: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with pytest.raises(InvalidArgument, match="http/protobuf"), tracing_of(grpc):
        raise AssertionError
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    asked = {ENDPOINT: "http://127.0.0.1:4318"}
    with pytest.raises(InvalidArgument, match=r"edgereplica\[otel\]"), tracing_of(asked):
        raise AssertionError


def test_nothing_of_it_is_imported_while_it_is_off() -> None:
    program = (
        "import sys\n"
        "from edgereplica.app import bootstrap\n"
        "from edgereplica.app.tracing import tracing_of\n"
        "with tracing_of({}) as tracing, tracing.span('x', headers={}):\n"
        "    pass\n"
        "heavy = {'opentelemetry.sdk', 'prometheus_client'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """What listens where OTLP over HTTP is sent."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(self.path.encode() + b" " + body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


def test_spans_arrive_in_the_callers_trace_and_hold_no_error_text(
    collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bodies = collector
    monkeypatch.setenv(ENDPOINT, url)
    headers = {b"traceparent": f"00-{TRACE}-b7ad6b7169203331-01".encode()}
    with (
        tracing_of() as tracing,
        pytest.raises(KeyError),
        tracing.span("request", headers=headers),
        tracing.span("commit"),
    ):
        raise KeyError("canary of a secret")
    (body,) = bodies
    raw = body.partition(b" ")[2]
    sent = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    assert body.startswith(b"/v1/traces ")
    assert sent.count(bytes.fromhex(TRACE)) == 2, "both spans are of the caller's trace"
    assert b"request" in sent
    assert b"commit" in sent
    assert b"canary" not in sent


def test_without_a_tracer_a_span_is_nothing() -> None:
    with Tracing().span("x", {"a": 1}):
        pass
