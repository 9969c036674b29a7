"""What a process says on standard error."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import copy_context
from datetime import datetime

import pytest

from driftloop.core.observability import logs
from driftloop.core.settings import LogSettings

log = logging.getLogger("stream_processors.somewhere")
HOSTILE = 'a "quoted"\n\x1b[31m{"level": "FAKE"}\u202e'


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The root logger is everybody's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_log_line_contains_context_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json", level="info"), "score")
    log.debug("not asked for")
    with logs.log_context(batch="events-0@5-9"):
        with logs.log_context(event="e7"):
            log.info("one of %d", 5)
        log.warning("%s", HOSTILE)
    log.error("nothing about it")
    first, second, third = objects(capsys)
    assert datetime.fromisoformat(first.pop("time")).utcoffset() is not None
    expected = {"level": "INFO", "role": "score", "logger": "stream_processors.somewhere", "message": "one of 5"}
    assert first == {**expected, "batch": "events-0@5-9", "event": "e7"}
    assert (second["message"], second["batch"], second["level"]) == (HOSTILE, "events-0@5-9", "WARNING")
    assert "event" not in second and "batch" not in third


def test_json_log_keeps_traceback_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"), "retrain")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it failed")
    (said,) = objects(capsys)
    assert said["message"] == "it failed" and "ValueError: two\nlines" in said["exception"]


def test_final_error_uses_configured_log_format(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json", level="error"), "score")
    logs.print_error("No Kafka answers: start one.")
    logs.configure(LogSettings(), "score")
    logs.print_error("No Kafka answers:\nstart one.")
    as_json, as_text = capsys.readouterr().err.splitlines()
    said = json.loads(as_json)
    assert (said["level"], said["message"]) == ("ERROR", "No Kafka answers: start one.")
    assert as_text == "driftloop: No Kafka answers:\\nstart one."


def test_hostile_text_cannot_forge_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(level="info"), "score")
    with logs.log_context(event="e\x1b7"):
        log.info("%s", HOSTILE)
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\u202e" not in said
    (line,) = said.splitlines()
    assert line.endswith('{"level": "FAKE"}\\u202e (event e\\x1b7)') and 'a "quoted"\\n\\x1b[31m' in line


def test_log_context_reaches_only_threads_given_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"), "score")
    with logs.log_context(batch="events-0@0-1"):
        given = threading.Thread(target=copy_context().run, args=(log.warning, "given"))
        other = threading.Thread(target=log.warning, args=("other",))
        for thread in (given, other):
            thread.start()
            thread.join()
    first, second = objects(capsys)
    assert first["batch"] == "events-0@0-1" and "batch" not in second


@pytest.mark.parametrize("library", logs.NOISY_LIBRARIES)
def test_library_warnings_are_hidden_errors_are_logged(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(level="debug"), "serve")
    inside = logging.getLogger(f"{library}.inside")
    inside.warning("a task ran for 0.2 s")
    inside.error("it is broken")
    assert [line.endswith("it is broken") for line in capsys.readouterr().err.splitlines()] == [True]


def test_kafka_connection_errors_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(level="debug"), "serve")
    logging.getLogger("kafka.net.connection").error("Connection failed")
    assert capsys.readouterr().err == ""


def test_unknown_log_format_is_refused() -> None:
    command = [sys.executable, "-m", "driftloop", "score"]
    done = subprocess.run(command, env={"DRIFTLOOP_LOGS__FORMAT": "xml"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "logs.format" in done.stderr and done.stderr.count("\n") == 1
