"""Traces: what goes with a message, what a stranger may write there, and what becomes of spans that nobody takes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs, tracing
from driftloop.core.settings import LogSettings, Settings, TraceSettings
from driftloop.devstack.ports import HOST, free_port
from tests.unit.repository.test_footprint import ROOT

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01".encode()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The loggers are everybody's."""
    loggers = [logging.getLogger(), logging.getLogger("opentelemetry")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:], logger.level = handlers, level


@pytest.fixture
def traced(tmp_path: Path) -> Settings:
    return Settings(trace=TraceSettings(exporter="file", file=str(tmp_path / "spans")))


def spans(settings: Settings) -> dict[str, dict[str, Any]]:
    """What was written, by the name of the span."""
    lines = Path(settings.trace.file).read_text().splitlines()
    return {span["name"]: span for span in map(json.loads, lines)}


def ids(span: dict[str, Any]) -> tuple[str, str]:
    return span["context"]["trace_id"].removeprefix("0x"), span["context"]["span_id"].removeprefix("0x")


def test_trace_header_sets_parent_and_link(
    traced: Settings,
) -> None:
    """Linked span stays in its own trace."""
    with tracing.tracing(traced, "score"):
        first = tracing.start("send", "producer", "events", "e1")
        second = tracing.start("score", "consumer", "events", "e1", tracing.inject_headers(first), began=5)
        other = tracing.start("other", "producer", "labels", "e1")
        third = tracing.start(
            "join",
            "consumer",
            "predictions",
            "e1",
            tracing.inject_headers(second),
            linked=tracing.inject_headers(other),
        )
        assert tracing.trace_headers(tracing.inject_headers(third)) == tracing.inject_headers(third)
        tracing.finish([first, second, third, other])
    found = spans(traced)
    assert {ids(found[name])[0] for name in ("send", "score", "join")} == {ids(found["send"])[0]}
    assert ids(found["other"])[0] != ids(found["send"])[0]
    assert found["send"]["parent_id"] is None
    assert found["score"]["parent_id"] == f"0x{ids(found['send'])[1]}"
    assert found["join"]["parent_id"] == f"0x{ids(found['score'])[1]}"
    (link,) = found["join"]["links"]
    assert link["context"]["span_id"] == f"0x{ids(found['other'])[1]}"
    assert found["score"]["start_time"].startswith("1970-01-01T00:00:00.000000")
    assert (found["send"]["kind"], found["score"]["kind"]) == ("SpanKind.PRODUCER", "SpanKind.CONSUMER")
    assert found["score"]["attributes"] == {
        "messaging.system": "kafka",
        "messaging.destination.name": "events",
        "messaging.kafka.message.key": "e1",
    }
    assert found["score"]["resource"]["attributes"]["service.name"] == "driftloop-score"


HOSTILE = {
    "empty": [("traceparent", b"")],
    "null": [("traceparent", None)],
    "no utf-8": [("traceparent", b"\xff" + VALID)],
    "other digits": [("traceparent", VALID.replace(b"4", "４".encode()))],
    "upper case": [("traceparent", VALID.upper())],
    "too short": [("traceparent", VALID[:-1])],
    "more after it": [("traceparent", VALID + b"-x")],
    "a newline and more": [("traceparent", VALID + b"\nX: y")],
    "version ff": [("traceparent", b"ff" + VALID[2:])],
    "no trace": [("traceparent", f"00-{'0' * 32}-{SPAN}-01".encode())],
    "no span": [("traceparent", f"00-{TRACE}-{'0' * 16}-01".encode())],
    "a megabyte": [("traceparent", VALID * 20_000)],
    "twice": [("traceparent", VALID), ("traceparent", VALID)],
    "another name": [("Traceparent", VALID)],
    "json": [("traceparent", b'{"trace_id": 1}')],
}


@pytest.mark.parametrize("headers", HOSTILE.values(), ids=HOSTILE)
def test_invalid_trace_header_is_ignored(headers: Any, traced: Settings) -> None:
    with tracing.tracing(traced, "score"):
        tracing.finish([tracing.start("score", "consumer", "events", "e1", headers, linked=headers)])
        assert tracing.trace_headers(headers) == ()
    found = spans(traced)["score"]
    assert found["parent_id"] is None and found["links"] == [] and ids(found)[0] != TRACE


@pytest.mark.parametrize("more", [[], [("tracestate", b"a=1"), ("baggage", b"b=2"), ("", b"\x00")]])
def test_control_valid_trace_header_is_followed(more: Any, traced: Settings) -> None:
    """Other headers, such as tracestate and baggage, are not passed on."""
    with tracing.tracing(traced, "score"):
        span = tracing.start("score", "consumer", "events", "e1", [("traceparent", VALID), *more])
        tracing.finish([span])
        ((key, value),) = tracing.inject_headers(span)
    found = spans(traced)["score"]
    assert (ids(found)[0], found["parent_id"]) == (TRACE, f"0x{SPAN}")
    assert (key, value) == ("traceparent", f"00-{TRACE}-{ids(found)[1]}-01".encode())


def test_unsampled_trace_stays_unsampled(traced: Settings) -> None:
    with tracing.tracing(traced, "score"):
        span = tracing.start("score", "consumer", "events", "e1", [("traceparent", VALID[:-2] + b"00")])
        tracing.finish([span])
        ((_, value),) = tracing.inject_headers(span)
    assert spans(traced) == {} and value.startswith(f"00-{TRACE}-".encode()) and value.endswith(b"-00")


@pytest.mark.parametrize(("sample", "kept"), [(0.0, 0), (1.0, 50)])
def test_sample_setting_is_share_of_kept_traces(sample: float, kept: int, tmp_path: Path) -> None:
    file = tmp_path / "spans"
    with tracing.tracing(Settings(trace=TraceSettings(exporter="file", file=str(file), sample=sample)), "replay"):
        tracing.finish([tracing.start("send", "producer", "events", f"e{i}") for i in range(50)])
    assert len(file.read_text().splitlines()) == kept


def test_disabled_tracing_makes_no_span_header_or_file(traced: Settings) -> None:
    with tracing.tracing(Settings(trace=TraceSettings(file=traced.trace.file)), "score"):
        span = tracing.start("score", "consumer", "events", "e1", [("traceparent", VALID)])
        assert not tracing.enabled() and span is None and tracing.inject_headers(span) == ()
        tracing.finish([span])
        with tracing.error_span("bury", "events", "e1", [("traceparent", VALID)], "it broke") as headers:
            assert headers == ()
    assert not Path(traced.trace.file).exists()


def test_log_line_in_span_contains_trace_id(traced: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json", level="info"), "score")
    log = logging.getLogger("somewhere")
    with tracing.tracing(traced, "score"):
        with tracing.error_span("bury", "events", "e1", [("traceparent", VALID)], "it broke"):
            log.info("inside")
        log.info("outside")
    inside, outside = map(json.loads, capsys.readouterr().err.splitlines())
    assert inside["trace"] == TRACE and "trace" not in outside
    assert spans(traced)["bury"]["status"] == {"status_code": "ERROR", "description": "it broke"}


WRITER = """
import sys
from driftloop.core.observability import tracing
from driftloop.core.settings_source import load
with tracing.tracing(load(), "score"):
    for i in range(400):
        tracing.finish([tracing.start("score", "consumer", "events", sys.argv[1] + "x" * 900)])
"""


def test_processes_sharing_span_file_write_whole_lines(traced: Settings) -> None:
    environ = os.environ | {
        "DRIFTLOOP_TRACE__EXPORTER": "file",
        "DRIFTLOOP_TRACE__FILE": traced.trace.file,
        "OTEL_BSP_SCHEDULE_DELAY": "1",
    }
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], env=environ, cwd=ROOT) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    keys = [
        json.loads(line)["attributes"]["messaging.kafka.message.key"][0]
        for line in Path(traced.trace.file).read_text().splitlines()
    ]
    assert {name: keys.count(name) for name in "abc"} == {"a": 400, "b": 400, "c": 400}


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP as a collector does."""

    taken: list[ExportTraceServiceRequest]
    asked: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        self.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_collector_gets_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    Collector.taken, Collector.asked = [], []
    server = ThreadingHTTPServer((HOST, 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{HOST}:{server.server_port}")
    try:
        with tracing.tracing(Settings(trace=TraceSettings(exporter="otlp"), stream="mine"), "monitor"):
            tracing.finish([tracing.start("join", "consumer", "predictions", "e1", [("traceparent", VALID)])])
    finally:
        server.shutdown()
        server.server_close()
    (request,) = Collector.taken
    (resource,) = request.resource_spans
    about = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert about["service.name"] == "driftloop-monitor" and about["stream"] == "mine"
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("join", TRACE, SPAN)
    assert Collector.asked == ["/v1/traces"]


def test_missing_collector_is_logged_only_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{HOST}:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    logs.configure(LogSettings(format="json"), "score")
    with tracing.tracing(Settings(trace=TraceSettings(exporter="otlp")), "score"):
        for _ in range(10):
            tracing.finish([tracing.start("score", "consumer", "events", f"e{i}") for i in range(50)])
            threading.Event().wait(0.2)
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["logger"] for line in said] == ["driftloop.core.observability.tracing"], said
    assert "spans cannot be exported" in said[0]["message"] and said[0]["level"] == "WARNING"


def test_full_disk_is_logged_only_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), "score")
    with tracing.tracing(Settings(trace=TraceSettings(exporter="file", file="/dev/full")), "score"):
        for _ in range(3):
            tracing.finish([tracing.start("score", "consumer", "events", "e1")])
            assert tracing._provider is not None
            tracing._provider.force_flush()
    said = capsys.readouterr().err
    assert said.count("spans cannot be exported") == 1 and "No space left" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("", "needs DRIFTLOOP_TRACE__FILE"), ("/nowhere/spans", "cannot be written to /nowhere/spans")],
)
def test_unwritable_span_file_is_refused(file: str, sentence: str) -> None:
    chosen = Settings(trace=TraceSettings(exporter="file", file=file))
    with pytest.raises(DriftloopError, match=sentence), tracing.tracing(chosen, "score"):
        pass


def test_missing_exporter_error_names_package_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from driftloop.core.observability import tracing\n"
        "from driftloop.core.settings import Settings, TraceSettings\n"
        "with tracing.tracing(Settings(trace=TraceSettings(exporter='otlp')), 'score'): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "install driftloop[trace]" in done.stderr
