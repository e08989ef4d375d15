"""Traces by OpenTelemetry, when an endpoint is set: one span for each request, with its route, id and person.

FastAPI makes the spans; this says where they go. Sampling, headers of the exporter and resource attributes come from
OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES).
"""

import importlib.util
from typing import TYPE_CHECKING

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
# Logs would hold the values of refused fields; metrics are at /metrics.
OFF = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)


def missing_packages() -> list[str]:
    """The packages that traces need and that are not installed."""
    return [name for name in NEEDED if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def tracer_provider(endpoint: str) -> "TracerProvider":
    """Sends spans to `endpoint` (OTLP over HTTP, the base URL) from a thread of its own; shut it down at the end."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "dotmac-api"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")))
    return provider


def traced_by(provider: "TracerProvider | None") -> TelemetryConfig:
    """FastAPI's configuration: spans of requests only, or nothing at all."""
    if provider is None:
        return OFF
    return TelemetryConfig(
        tracer_provider=provider, metrics=False, logs=False, operation_spans=False, auto_configure=False
    )


def describe_request(request_id: str, person: str | None) -> None:
    """Put a request's id and person on its span, so that traces and logs can be brought together."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute("dotmac.request_id", request_id)
        if person is not None:
            span.set_attribute("enduser.id", person)
