"""Talking to the API of a real process on the real stack: scoring, the whole descent, people's words, streams."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import urllib.error
import urllib.request
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import tritonclient.http as oip
from msgspec.structs import replace

from driftloop.core.messages import Command, DriftAlert, Label, Outcome, Prediction, Retraining, encode
from driftloop.core.online_store import OnlineStore
from driftloop.core.topics import COMMANDS, DRIFT_ALERTS, LABELS, OUTCOMES, PREDICTIONS, RETRAINING
from driftloop.devstack.ports import HOST
from tests.integration.conftest import StreamHarness, text_and_label
from tests.integration.test_serve import Answer, Api, ask, serve
from tests.unit.serving.test_views import made

pytestmark = pytest.mark.timeout(240)

TOKENS = {"viewer": "v" * 16, "annotator": "a" * 16, "admin": "b" * 16}


def call(api: Api, path: str, body: Any = None, token: str = "", **headers: str) -> Answer:
    """A request with JSON, or without a body."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} if data is not None else {}
    given |= {"Authorization": f"Bearer {token}"} if token else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(urllib.request.Request(f"http://{HOST}:{api.port}{path}", data=data, headers=given), 60)


def ready(world: StreamHarness, token: str = "", **environ: str) -> Api:
    """A server with a champion."""
    api = serve(world, token, **environ)
    world.until(lambda: call(api, "/v2/health/ready").status == 200)
    return api


def test_api_scores_like_scorer_and_follows_promotions(world: StreamHarness) -> None:
    api = serve(world)
    before = call(api, "/v1/predict", {"text": "x"})
    assert before.status == 503 and before.headers["retry-after"] and "no model yet" in before.json["detail"]
    assert call(api, "/v2/health/ready").status == 503 and call(api, "/v2/health/live").status == 200
    first = world.promote()
    world.until(lambda: call(api, "/v2/health/ready").status == 200)

    world.send(events=range(40))
    world.start("score")
    world.until(lambda: world.count(PREDICTIONS) >= 40)
    said = [p for p in world.read(PREDICTIONS) if isinstance(p, Prediction)]
    answer = call(api, "/v1/predict", {"text": [p.text for p in said]})
    assert answer.status == 200 and len(answer.json["predictions"]) == 40
    for prediction, found in zip(said, answer.json["predictions"], strict=True):
        assert (found["label"], found["model_version"]) == (prediction.label, first)
        assert found["words"] is None and found["route"] == prediction.route
        assert found["probabilities"] == pytest.approx(prediction.probabilities, abs=0.02)
    assert world.count(PREDICTIONS) == 40, "what is asked here is no part of the stream"

    second = world.promote(flipped=True)
    world.until(lambda: call(api, "/v1/predict", {"text": "x"}).json["predictions"][0]["model_version"] == second)
    other = call(api, "/v1/predict", {"text": [p.text for p in said]}).json["predictions"]
    flipped = sum(new["label"] != old.label for new, old in zip(other, said, strict=True))
    assert flipped > 35, "the other model answers"


def test_concurrent_callers_get_their_own_answers(world: StreamHarness) -> None:
    world.promote()
    api = ready(world)
    alone = {i: call(api, "/v1/predict", {"text": text_and_label(i)[0]}).json["predictions"][0] for i in range(48)}
    found: dict[int, Any] = {}

    def ask(i: int) -> None:
        found[i] = call(api, "/v1/predict", {"text": text_and_label(i)[0]}).json["predictions"][0]

    threads = [threading.Thread(target=ask, args=(i,)) for i in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: said["label"] for i, said in found.items()} == {i: said["label"] for i, said in alone.items()}
    assert all(found[i]["probabilities"] == pytest.approx(alone[i]["probabilities"], abs=0.02) for i in alone)


@pytest.mark.slow
def test_explanation_lists_most_influential_words_first(world: StreamHarness) -> None:
    """The word that makes the label comes first; the words of a long text are weighted in groups."""
    world.promote()
    api = ready(world)
    text = "awful service on  my flight"
    found = call(api, "/v1/predict", {"text": text, "explain": True}).json["predictions"][0]
    assert found["label"] == "negative" and {word["word"] for word in found["words"]} == set(text.split())
    assert found["words"][0]["word"] == "awful" and found["words"][0]["weight"] > 0
    assert all(text[word["start"] : word["end"]] == word["word"] for word in found["words"])
    weights = [abs(word["weight"]) for word in found["words"]]
    assert weights == sorted(weights, reverse=True)
    assert call(api, "/v1/predict", {"text": "", "explain": True}).json["predictions"][0]["words"] == []
    long = call(api, "/v1/predict", {"text": "late " * 500, "explain": True}).json["predictions"][0]["words"]
    assert 32 < len(long) <= 64, "the words of a long text go in groups"
    assert call(api, "/v1/predict", {"text": ["x"] * 9, "explain": True}).status == 422


def test_open_inference_client_gets_same_answers(world: StreamHarness) -> None:
    version = world.promote()
    api = ready(world)
    model = world.settings.model_name
    texts = [text_and_label(i)[0] for i in range(3)] + ["é 😀"]
    expected = call(api, "/v1/predict", {"text": texts}).json["predictions"]
    with oip.InferenceServerClient(f"{HOST}:{api.port}") as client:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready(model) and client.is_model_ready(model, version)
        assert not client.is_model_ready("another") and not client.is_model_ready(model, "999")
        assert client.get_server_metadata()["name"] == "driftloop"
        described = client.get_model_metadata(model)
        assert described["versions"] == [version] and described["parameters"]["labels"] == ["negative", "positive"]
        shapes = {one["name"]: (one["datatype"], one["shape"]) for one in described["outputs"]}
        assert shapes == {"label": ("BYTES", [-1]), "probabilities": ("FP32", [-1, 2])}

        for binary in (True, False):
            tensor = oip.InferInput("text", [4], "BYTES")
            tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object), binary_data=binary)
            wanted = [oip.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
            for outputs in (wanted, None, wanted[:1]):
                answer = client.infer(model, [tensor], outputs=outputs, request_id="7")
                assert answer.get_response()["model_version"] == version and answer.get_response()["id"] == "7"
                labels = [str(one, "utf-8") if isinstance(one, bytes) else one for one in answer.as_numpy("label")]
                assert labels == [said["label"] for said in expected]
                if outputs is wanted[:1] or (outputs is not None and len(outputs) == 1):
                    assert answer.as_numpy("probabilities") is None
                    continue
                rows = answer.as_numpy("probabilities")
                assert rows.shape == (4, 2) and rows.dtype == np.float32
                for row, said in zip(rows, expected, strict=True):
                    assert row == pytest.approx(list(said["probabilities"].values()), abs=0.02)
        with pytest.raises(oip.InferenceServerException, match="There is no model 'another'"):
            client.infer("another", [tensor])
        wrong = oip.InferInput("text", [5], "BYTES")
        wrong.set_data_from_numpy(np.array(["a"] * 5, dtype=object), binary_data=False)
        wrong.set_shape([4])
        with pytest.raises(oip.InferenceServerException, match="the request has 5 texts"):
            client.infer(model, [wrong])


def test_lineage_lists_models_alert_and_retrainings(world: StreamHarness) -> None:
    first = world.promote()
    alert = made(DriftAlert, alert_id="alert-1", stream=world.settings.stream, position=5, onset=3)
    second = world.promote(trigger="alert-1")
    world.outbox.put("drift-alerts", "key", alert)
    line = made(Retraining, run_id="r1", stream=world.settings.stream, trigger="alert-1", state="queued", reason="why")
    world.outbox.put("retraining", "key", line)
    world.outbox.flush()
    OnlineStore(world.settings).put_predictions(
        {"e 1/x": encode(made(Prediction, event_id="e 1/x", model_version=second))}
    )
    api = serve(world)
    world.until(lambda: bool(call(api, "/v1/alerts").json) and bool(call(api, "/v1/retrainings").json))
    found = call(api, "/v1/lineage/e%201%2Fx").json
    assert found["prediction"]["event_id"] == "e 1/x"
    assert found["models"][0]["version"] == second and found["models"][0]["trigger"] == "alert-1"
    assert len(found["models"][0]["digest"]) == 64 and found["models"][0]["run_id"]
    assert found["alert"]["alert_id"] == "alert-1" and [one["reason"] for one in found["retraining"]] == ["why"]
    assert call(api, "/v1/lineage/nobody").status == 404
    assert [one["version"] for one in call(api, "/v1/models").json] == [first, second]
    assert call(api, "/v1/drift").json["alert"]["alert_id"] == "alert-1"
    assert call(api, "/v1/cases/alert-1").json["case_id"] == "alert-1" and call(api, "/v1/cases/x").status == 404
    assert [run["run_id"] for run in call(api, "/v1/retrainings?limit=1").json] == ["r1"]
    assert call(api, "/v1/retrainings?limit=0").status == 422


def test_feedback_label_is_joined_like_any_other(world: StreamHarness) -> None:
    world.promote()
    world.send(events=range(3))
    world.start("score")
    world.start("monitor")
    world.until(lambda: world.count(PREDICTIONS) >= 3)
    api = ready(world)
    said = {p.event_id: p for p in world.read(PREDICTIONS) if isinstance(p, Prediction)}
    other = {"negative": "positive", "positive": "negative"}[said["e1"].label]
    taken = call(api, "/v1/feedback", {"event_id": "e1", "label": other, "annotator": "ann"})
    assert taken.status == 202 and taken.json["corrects"] is True and taken.json["predicted"] == said["e1"].label
    world.until(lambda: world.count(OUTCOMES) == 1)
    (label,) = world.read(LABELS)
    assert isinstance(label, Label) and (label.event_id, label.label, label.annotator) == ("e1", other, "ann")
    assert label.feedback and label.position == 1
    (outcome,) = world.read(OUTCOMES)
    assert isinstance(outcome, Outcome) and not outcome.correct and outcome.label == other
    assert call(api, "/v1/feedback", {"event_id": "e2", "label": said["e2"].label}).json["corrects"] is False

    for body, status, words in (
        ({"event_id": "nobody", "label": other}, 404, "no prediction for 'nobody'"),
        ({"event_id": "e1", "label": "strange"}, 422, "The model knows negative, positive"),
        ({"event_id": "e1"}, 422, "label: Field required"),
        ({"event_id": "e1", "label": other, "more": 1}, 422, "more: Extra inputs"),
    ):
        answer = call(api, "/v1/feedback", body)
        assert answer.status == status and words in answer.json["detail"], answer
        assert answer.kind == "application/problem+json"
    assert call(api, "/v1/feedback", {"event_id": "e1", "label": "strange", "new_class": True}).status == 202


@pytest.fixture
def guarded(world: StreamHarness) -> Api:
    """A server that asks who calls."""
    world.promote()
    known = "\n".join(f"{role}-1:{role}:{token}" for role, token in TOKENS.items())
    return ready(world, TOKENS["viewer"], DRIFTLOOP_API__TOKENS=known)


DOORS = [
    ("viewer", "/v1/status", None, 200),
    ("viewer", "/v1/predict", {"text": "x"}, 200),
    ("viewer", "/v1/commands/x", None, 200),
    ("viewer", "/v2", None, 200),
    ("annotator", "/v1/feedback", {"event_id": "e1", "label": "positive"}, 202),
    ("admin", "/v1/models/1/promote", {}, 202),
    ("admin", "/v1/models/1/reject", {}, 202),
    ("admin", "/v1/models/1/rollback", {}, 202),
    ("admin", "/v1/rollback", {}, 202),
    ("admin", "/v1/retrainings", {"reason": "please"}, 202),
]


def test_endpoints_require_their_minimum_role(world: StreamHarness, guarded: Api) -> None:
    said = made(Prediction, event_id="e1", probabilities={"positive": 0.6, "negative": 0.4})
    OnlineStore(world.settings).put_predictions({"e1": encode(said)})
    order = list(TOKENS)
    for least, path, body, status in DOORS:
        assert call(guarded, path, body).status == 401, path
        assert call(guarded, path, body, "x" * 16).status == 401, path
        assert call(guarded, path, body, Authorization="Basic eDp5").status == 401, path
        for role, token in TOKENS.items():
            wanted = status if order.index(role) >= order.index(least) else 403
            answer = call(guarded, path, body, token)
            assert answer.status == wanted, (path, role, answer)
            if wanted == 403:
                assert answer.json[
                    "detail"
                ] == f"{role}-1 is {'an' if role[0] == 'a' else 'a'} {role}, and this needs " + (
                    f"{'an' if least[0] == 'a' else 'a'} {least}."
                )
    for path in ("/health", "/metrics", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs"):
        assert call(guarded, path).status == 200, path
    labels = [one for one in world.read(LABELS) if isinstance(one, Label)]
    assert {label.annotator for label in labels} == {"annotator-1", "admin-1"}, "the token says who it was"
    asked = [one for one in world.read(COMMANDS) if isinstance(one, Command)]
    assert [one.action for one in asked] == ["promote", "reject", "rollback", "rollback", "retrain"]
    assert {one.by for one in asked} == {"admin-1"}
    log = guarded.child.log_tail()
    assert not any(token in log for token in TOKENS.values())


def test_foreign_origin_and_host_are_refused(world: StreamHarness) -> None:
    world.promote()
    api = ready(world)
    body = {"text": "x"}
    own = f"http://{HOST}:{api.port}"
    assert call(api, "/v1/predict", body, Origin=own).status == 200
    assert call(api, "/v1/predict", body, Host="localhost:1").status == 200
    for headers, status in (
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": f"127.0.0.1.evil.example:{api.port}"}, 421),
    ):
        answer = call(api, "/v1/predict", body, **headers)
        assert answer.status == status and answer.kind == "application/problem+json", headers
    # What a form of another page can send without being asked first: no JSON by its type.
    plain = call(api, "/v1/retrainings", b"{}", Content_Type="text/plain")
    assert plain.status == 422 and world.count(COMMANDS) == 0
    assert call(api, "/v1/retrainings", b"{}").status == 202


@pytest.mark.slow
def test_web_socket_from_foreign_origin_is_refused(world: StreamHarness) -> None:
    world.promote()
    api = ready(world)
    path = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    own = f"127.0.0.1:{api.port}"

    def knock(**headers: str) -> int:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": base64.b64encode(b"k" * 16).decode()}
        with closing(http.client.HTTPConnection(HOST, api.port, timeout=20)) as connection:
            connection.request("GET", path, headers=upgrade | key | headers)
            return connection.getresponse().status

    assert knock() == knock(Origin=f"http://{own}") == 101
    assert knock(Origin="http://evil.example") == knock(Origin="null") == 403
    assert knock(Host="evil.example") == knock(Host="evil.example", Origin="http://evil.example") == 403


def test_request_limits_are_enforced(world: StreamHarness) -> None:
    """Limits hold for texts, bytes and rate, and a refusal states its limit."""
    world.promote()
    api = ready(world, DRIFTLOOP_API__RATE="40", DRIFTLOOP_API__MAX_BYTES="2000", DRIFTLOOP_API__MAX_TEXTS="30")
    sentence = "The request has 31 texts; at most 30 are scored at a time"
    assert sentence in call(api, "/v1/predict", {"text": ["x"] * 31}).json["detail"]
    assert call(api, "/v1/predict", {"text": ["x"] * 25}).status == 200
    spent = call(api, "/v1/predict", {"text": ["x"] * 25})
    assert (
        spent.status == 429 and int(spent.headers["retry-after"]) >= 1 and "40 texts a minute" in spent.json["detail"]
    )
    long = call(api, "/v1/predict", {"text": "x" * 3000})
    assert long.status == 413 and "2000 bytes" in long.json["detail"]
    chunked = urllib.request.Request(
        f"http://{HOST}:{api.port}/v1/predict", data=iter([b"x" * 1500, b"x" * 1500]), method="POST"
    )
    chunked.add_header("Content-Type", "application/json")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(chunked, timeout=20)
    assert refused.value.code == 413
    statuses = [call(api, "/v1/status").status for _ in range(45)]
    assert statuses[0] == 200 and statuses[-1] == 429 and call(api, "/health").status == 200


def test_event_streams_end_with_the_server(world: StreamHarness) -> None:
    """Streams deliver new predictions, and only the alerts of the own stream."""
    world.promote()
    world.start("score")
    api = ready(world)
    world.until(lambda: api.figures()["phase"] == "running")
    heard: dict[str, list[tuple[str, Any]]] = {"predictions": [], "alerts": []}

    def listen(what: str) -> None:
        with urllib.request.urlopen(f"http://{HOST}:{api.port}/v1/stream/{what}", timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            event = ""
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    heard[what].append((event, json.loads(line.removeprefix("data: "))))

    threads = [threading.Thread(target=listen, args=(what,)) for what in heard]
    for thread in threads:
        thread.start()
    where = {"position": 5, "onset": 3}
    hostile = "first\nsecond: \u2028 <b>"
    sent = 0

    def told() -> bool:
        nonlocal sent
        world.send(events=range(sent, sent + 1))
        world.outbox.put("drift-alerts", "k", made(DriftAlert, stream=world.settings.stream, detector=hostile, **where))
        world.outbox.put("drift-alerts", "k", made(DriftAlert, stream="another", detector="not ours", **where))
        world.outbox.flush()
        sent += 1
        return len(heard["predictions"]) > 2 and len(heard["alerts"]) > 2

    world.until(told)
    api.child.stop()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "the stream ends with the server"
    assert {event for event, _ in heard["predictions"]} == {"prediction"}
    ids = [body["event_id"] for _, body in heard["predictions"]]
    assert ids == sorted(set(ids), key=ids.index) and set(ids) <= {f"e{i}" for i in range(sent)}
    assert {body["detector"] for _, body in heard["alerts"]} == {hostile}


def test_every_openapi_example_works(world: StreamHarness) -> None:
    world.promote()
    api = ready(world)
    schema = call(api, "/openapi.json").json
    tried = 0
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            examples = [content["example"]] if "example" in content else []
            reference = content.get("schema", {}).get("$ref", "")
            examples += schema["components"]["schemas"].get(reference.rpartition("/")[2], {}).get("examples", [])
            for example in examples:
                where = path.replace("{model}", world.settings.model_name).replace("{version}", "1")
                answer = call(api, where, example)
                assert answer.status == 200, (path, answer)
                tried += 1
    assert tried >= 4
    assert "swagger-ui-bundle.js" in call(api, "/docs").body and "http" not in call(api, "/docs").body
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert call(api, f"/docs/{name}").status == 200
    assert call(api, "/docs/favicon.png").status == 404


def test_malformed_api_token_is_refused_without_showing_it(world: StreamHarness) -> None:
    from tests.integration.test_serve import refused

    for wrong in ("ann:annotator:short", "ann:boss:" + "s" * 16, "secret-without-a-name", ":admin:" + "s" * 16):
        sentence = refused(world.settings, DRIFTLOOP_API__TOKENS=wrong)
        assert "Entry 1 of DRIFTLOOP_API__TOKENS is not NAME:ROLE:TOKEN" in sentence
        assert wrong not in sentence and wrong.rpartition(":")[2] not in sentence


def test_human_commands_are_executed_by_retrainer(world: StreamHarness) -> None:
    """The state of each command can be read; the newest human label of an event counts."""
    first = world.promote()
    world.promote(flipped=True)
    settings = replace(world.settings, retrain=replace(world.settings.retrain, candidates=("linear",)))
    world.settings = settings
    world.send(events=range(120), labels=range(120))
    world.start("score")
    world.start("monitor")
    world.until(lambda: world.count(OUTCOMES) >= 120)
    api = ready(world)
    lost = call(api, f"/v1/models/{first}/reject", {"reason": "no"}).json
    back = call(api, f"/v1/models/{first}/rollback", {"reason": "it was better"})
    assert back.status == 202 and back.headers["location"] == f"/v1/commands/{back.json['command_id']}"
    assert call(api, back.headers["location"]).json["state"] == "asked", "nobody is there yet"
    assert call(api, "/v1/models/99/promote", {}).status == 404
    world.start("retrain")

    def state(answer: Any) -> str:
        return str(call(api, f"/v1/commands/{answer['command_id']}").json["state"])

    world.until(lambda: state(back.json) == "finished", 120)
    assert state(lost) == "failed"
    assert "only one that waits can be rejected" in call(api, f"/v1/commands/{lost['command_id']}").json["words"]
    assert call(api, "/v1/status").json["champion"] == "3"

    corrected = call(api, "/v1/feedback", {"event_id": "e7", "label": "positive", "annotator": "ann"})
    again = call(api, "/v1/feedback", {"event_id": "e7", "label": "negative", "annotator": "bob"})
    assert corrected.status == again.status == 202
    now = call(api, "/v1/retrainings", {"reason": "people have spoken"}).json
    world.until(lambda: state(now) == "finished", 120)
    queued = next(
        line
        for line in world.read(RETRAINING)
        if isinstance(line, Retraining) and line.run_id == now["command_id"] and line.state == "queued"
    )
    assert "asked for by anonymous: people have spoken" in queued.reason
    assert queued.scores["corrections"] == {"e7": ["negative", "bob"]}, "the newest word counts"
    assert queued.scores["rows"] == 120
    assert world.count(OUTCOMES) == 120, "an event is joined once"

    # Who comes next knows what has been answered, and what people have said.
    commands = len(world.read(RETRAINING))
    world.children[-1].kill()
    world.until(lambda: world.children[-1].restarts == 1)
    later = call(api, "/v1/retrainings", {"reason": "once more"}).json
    world.until(lambda: state(later) == "finished", 120)
    fresh = [line for line in world.read(RETRAINING)[commands:] if isinstance(line, Retraining)]
    assert {line.run_id for line in fresh} == {later["command_id"]}
    assert fresh[0].scores["corrections"] == {"e7": ["negative", "bob"]}
    assert world.count(DRIFT_ALERTS) == 0
