"""Every endpoint of the API against its own OpenAPI schema, and event ids of every kind, on the real stack."""

from __future__ import annotations

import http.client
import json
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import strategies as st
from msgspec.structs import replace
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from driftloop.core.messages import Prediction, encode
from driftloop.core.online_store import OnlineStore
from driftloop.devstack.ports import HOST
from tests.hostile import TEXT, count, each
from tests.integration.conftest import StreamHarness
from tests.integration.test_serve import Api, serve, write_a_loop
from tests.unit.serving.test_views import made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]

MODEL = "/v2/models/{model}"
ENDPOINTS = {
    "/health", "/metrics", "/v1/status", "/v1/predictions/{event_id}", "/v1/lineage/{event_id}", "/v1/predict",
    "/v1/models", "/v1/alerts", "/v1/cases/{case_id}", "/v1/retrainings", "/v1/drift", "/v1/feedback", "/v1/rollback",
    "/v1/models/{version}/promote", "/v1/models/{version}/reject", "/v1/models/{version}/rollback",
    "/v1/commands/{command_id}", "/v2", "/v2/health/live", "/v2/health/ready", MODEL, f"{MODEL}/versions/{{version}}",
    f"{MODEL}/ready", f"{MODEL}/versions/{{version}}/ready", f"{MODEL}/infer", f"{MODEL}/versions/{{version}}/infer",
}  # fmt: skip
STREAMS = "/v1/stream/"
"""What begins like this has no end that could be looked at; `test_api.py` listens to it."""
IDS = ["e1", "a\nb:c\x00d", "😀" * 100, "../../health", "%2e%2e", " ", "*", "?a=b#c", "\u202e", "x" * 1024]


def get(api: Api, path: bytes, method: str = "GET") -> tuple[int, str, bytes]:
    """Status, content type and body of a request whose path no client has made tidy."""
    connection = http.client.HTTPConnection(HOST, api.port, timeout=20)
    try:
        connection.putrequest(method, path.decode("latin-1"), skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, str(answer.headers["Content-Type"]), answer.read()
    finally:
        connection.close()


def test_api_conforms_to_its_openapi_schema(world: StreamHarness) -> None:
    """Generated requests for every endpoint that is no stream."""
    write_a_loop(world)
    OnlineStore(world.settings).client.set(OnlineStore(world.settings).key("prediction", "broken"), b"{")
    world.promote()
    token = "t" * 16
    api = serve(world, token, DRIFTLOOP_API__RATE="0", DRIFTLOOP_API__TOKENS=f"ann:admin:{token}")
    known = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_url(f"http://{HOST}:{api.port}/openapi.json", config=SchemathesisConfig())
    met = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.startswith(STREAMS):
            continue
        met.add(operation.path)

        @each(operation.as_strategy(), 2_000, 30)
        def check(batch: list[schemathesis.Case]) -> None:
            for case in batch:
                # A schema cannot say that a label has to be known, or a shape to fit: such a body is refused.
                case.call_and_validate(headers=known, excluded_checks=[positive_data_acceptance])
                count(f"API: {case.operation.label}", "as its schema says")

        check()
    assert met == ENDPOINTS, "the schema does not name every endpoint"
    assert api.get("/v1/predictions/broken").status == 502, "what cannot be read is said to be unreadable"
    assert api.healthy() and not api.child.restarts


def test_prediction_is_found_by_any_event_id(world: StreamHarness) -> None:
    """An unknown id is answered with 404."""
    prediction = made(Prediction, event_id="e1")
    stored = {event_id: encode(replace(prediction, event_id=event_id)) for event_id in IDS}
    OnlineStore(world.settings).put_predictions(stored)
    api = serve(world)
    for event_id in IDS:
        status, kind, body = get(api, b"/v1/predictions/" + quote(event_id, safe="").encode())
        assert (status, kind, json.loads(body)["event_id"]) == (200, "application/json", event_id)

    paths = TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=30)

    @each(paths, 2_000, 100)
    def check(batch: list[bytes]) -> None:
        for raw in batch:
            status, kind, body = get(api, b"/v1/predictions/" + quote(raw, safe="").encode())
            assert status == 404 and kind == "application/problem+json" and json.loads(body)["status"] == 404
            count("API: event ids of any bytes", "not found")

    check()
    assert api.healthy() and not api.child.restarts
