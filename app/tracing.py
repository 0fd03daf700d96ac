"""OpenTelemetry traces, switched on by its own environment variables and by nothing else.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`), or `OTEL_TRACES_EXPORTER`
of "otlp" or "console", asks for traces; `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`
forbids them; sampling, headers, resource and batching are the SDK's own variables. Without them
nothing of OpenTelemetry is imported. A trace begins with a call or a handshake, joined to the
caller's by `traceparent`; sessions and commits lie within. No span holds a secret, an address of a
person or page content.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ..events.errors import InvalidArgument

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP: Final = "http/protobuf"
_PROPAGATED: Final = ("traceparent", "tracestate", "baggage")


class Tracing:
    """Makes spans; without a tracer it does nothing."""

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Mapping[str, str | int] | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Iterator[None]:
        """A span around the block. `headers` are those of a request, which may name its trace."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span(
            name,
            context=None if headers is None else _context_of(headers),
            attributes=dict(attributes or {}),
            # The text of an exception may hold what a log line is cleaned of.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                _mark_failed(span)
                raise


NO_TRACING: Final = Tracing()


def _mark_failed(span: "Span") -> None:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415 - only where traces are wanted

    span.set_status(StatusCode.ERROR)


def _context_of(headers: Mapping[bytes, bytes]) -> "Context":
    from opentelemetry.propagate import extract  # noqa: PLC0415 - only where traces are wanted

    return extract({n: headers.get(n.encode(), b"").decode("latin-1") for n in _PROPAGATED})


def wanted(environment: Mapping[str, str]) -> str | None:
    """The exporter that the environment asks for, "otlp" or "console"; None for no traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter in {"otlp", "console", "none"}:
        return None if exporter == "none" else exporter
    if exporter:
        raise InvalidArgument("OTEL_TRACES_EXPORTER is otlp, console or none here")
    return "otlp" if any(environment.get(name) for name in _ENDPOINTS) else None


@contextmanager
def tracing_of(environment: Mapping[str, str] = os.environ) -> Iterator[Tracing]:
    """What the environment asks for; on the way out every span is exported.

    `InvalidArgument` if traces are asked for and the packages for them are missing.
    """
    name = wanted(environment)
    if name is None:
        yield NO_TRACING
        return
    protocol = next((environment[key] for key in _PROTOCOLS if environment.get(key)), _HTTP)
    if name == "otlp" and protocol != _HTTP:
        raise InvalidArgument(f"traces are sent by {_HTTP} only; OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        exporter = _exporter(name)
    except ImportError as error:
        raise InvalidArgument(
            f"the environment asks for traces, which need another package ({error.name}): "
            "pip install 'edgereplica[otel]'"
        ) from error
    named = environment.get("OTEL_SERVICE_NAME") or "edgereplica"
    provider = TracerProvider(resource=Resource.create({"service.name": named}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield Tracing(provider.get_tracer("edgereplica"))
    finally:
        provider.shutdown()


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    return OTLPSpanExporter()
