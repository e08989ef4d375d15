"""Traces against a real OTLP receiver, and the start without the packages that they need."""

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError
from tests.api.conftest import Accounts, connect, make_settings

from dotmac_api import telemetry
from dotmac_api.main import create_app
from dotmac_api.settings import Settings


class Collector(HTTPServer):
    """Keeps every span that is sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces" and self.headers.get("Content-Encoding") is None:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.services
async def test_a_request_is_a_span_with_its_route_id_and_person(
    settings: Settings, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings.model_copy(update={"otlp_endpoint": collector.url}))
    with caplog.at_level(logging.INFO, "dotmac_api.access"):
        async with app.router.lifespan_context(app), connect(app) as client:
            account = await Accounts(app.state.facade).make("admin", username="ada")
            answer = await client.get(f"/api/v1/people/{account.person_id}", headers=account.headers)
            assert answer.status_code == 200
    (span,) = collector.spans
    attributes = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    assert attributes["http.route"] == "/api/v1/people/{person_id}"
    assert attributes["dotmac.request_id"] == answer.headers["X-Request-ID"]
    assert attributes["enduser.id"] == "ada"
    assert account.token not in str(span)


def test_without_an_endpoint_nothing_is_traced() -> None:
    app = create_app(make_settings("postgresql://dotmac@127.0.0.1/none", "redis://127.0.0.1"))
    assert app.state.tracing is None
    assert not app._native_telemetry.enabled()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "NEEDED", ("opentelemetry.sdk", "no_such_package.sdk"))
    with pytest.raises(ValidationError, match=r"needs no_such_package.sdk; install the extra: .*\[telemetry\]"):
        make_settings("postgresql://h/d", "redis://h", otlp_endpoint="http://127.0.0.1:4318")


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be an http"):
        make_settings("postgresql://h/d", "redis://h", otlp_endpoint=url)
