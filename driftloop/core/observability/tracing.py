"""Traces by OpenTelemetry, off by default: one for each event, from its sending over its prediction to its outcome.

The replay makes a span `send events` (and `send labels`), the scorer `score`, the monitor `join`, whoever finds a dead
letter `bury`. Which trace an event belongs to travels in the Kafka header ``traceparent`` (W3C Trace Context) and never
in a message's body; where a prediction and its label wait for each other it waits with them in the store, see
`stream_processors.monitoring.join_tracing`. What is read again after a crash has a second span and the same message.

A header is a stranger's word: one that is malformed, or there twice, counts as none. Spans are handed over in the
background and dropped where they are not taken in time, so that the stream never waits for them. Where the collector is
(``OTEL_EXPORTER_OTLP_ENDPOINT``) and how many spans may wait (``OTEL_BSP_MAX_QUEUE_SIZE``) are OpenTelemetry's own
variables.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import driftloop
from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from driftloop.core.settings import Settings, TraceSettings

log = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes]]
"""Of a Kafka message."""
TRACEPARENT = "traceparent"
PROPAGATOR = TraceContextTextMapPropagator()
MAX_KEY_LENGTH = 1024
SHUTDOWN_SECONDS = 3.0
"""Most seconds that the end of a process waits until its last spans are taken."""

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


@contextmanager
def tracing(settings: Settings, role: str) -> Iterator[None]:
    """Make spans while the block runs, where the settings want them; ``role`` is the verb that the process runs.

    Raises:
        DriftloopError: the file cannot be written to, or what sends spans to a collector is not installed.
    """
    global _provider, _tracer
    if settings.trace.exporter == "none":
        yield
        return
    _provider = _start(settings, role)
    _tracer = _provider.get_tracer("driftloop", driftloop.__version__)
    try:
        yield
    finally:
        close()


def close() -> None:
    """Hand over the last spans, within `LAST`; a process that ends without unwinding calls it before."""
    global _provider, _tracer
    if _provider is None:
        return
    handing_over = threading.Thread(target=_provider.shutdown, daemon=True, name="last spans")
    _provider, _tracer = None, None
    handing_over.start()
    handing_over.join(SHUTDOWN_SECONDS)


def enabled() -> bool:
    """Whether spans are made; where not, nobody looks at a header."""
    return _tracer is not None


def start(
    name: str,
    kind: Literal["producer", "consumer"],
    topic: str,
    key: str,
    came_with: Headers = (),
    *,
    linked: Headers = (),
    began: int | None = None,
) -> Span | None:
    """A span that has begun, in the trace that a message ``came_with``, or in a new one; None where traces are off.

    ``topic`` and ``key`` are those of the message that is sent or taken, the key that of its event. ``linked``
    are the headers of another message that it is about; ``began`` is when it began if that was not now, in nanoseconds
    since 1970.
    """
    if _tracer is None:
        return None
    parent, other = _extract(came_with), _extract(linked)
    return _tracer.start_span(
        name,
        Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context()),
        kind=SpanKind[kind.upper()],
        links=[] if other is None else [Link(other)],
        attributes={
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.kafka.message.key": key[:MAX_KEY_LENGTH],
        },
        start_time=began,
    )


def finish(spans: Iterable[Span | None], error: str = "") -> None:
    """The spans are over, well or with an error."""
    for span in spans:
        if span is not None:
            if error:
                span.set_status(Status(StatusCode.ERROR, error))
            span.end()


def inject_headers(span: Span | None) -> Headers:
    """The headers of a message that is sent in this span; none where traces are off."""
    return () if span is None else _inject(span.get_span_context())


@contextmanager
def error_span(name: str, topic: str, key: str, came_with: Headers, error: str) -> Iterator[Headers]:
    """A span, over with ``error``, around a block whose log lines say its trace; yields the headers of what is sent."""
    span = start(name, "consumer", topic, key, came_with)
    if span is None:
        yield ()
        return
    try:
        with logs.log_context(trace=f"{span.get_span_context().trace_id:032x}"):
            yield inject_headers(span)
    finally:
        finish([span], error)


def trace_headers(headers: Headers) -> Headers:
    """Of headers that a message came with, those that name its trace; none where they do not."""
    named = _extract(headers)
    return () if named is None else _inject(named)


def _extract(headers: Headers) -> SpanContext | None:
    """The span that headers name, None where they name none."""
    found = [value for key, value in headers if key == TRACEPARENT]
    if len(found) != 1:
        return None
    text = (found[0] or b"").decode("ascii", "replace")  # a header's value may be null
    named = get_current_span(PROPAGATOR.extract({TRACEPARENT: text})).get_span_context()
    return named if named.is_valid else None


def _inject(context: SpanContext) -> Headers:
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, set_span_in_context(NonRecordingSpan(context)))
    return [(key, value.encode()) for key, value in carrier.items()]


def _start(settings: Settings, role: str) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    # What is wrong with an exporter is said by ours, once: by itself it says so for every batch, with a traceback.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    about = {"service.name": f"driftloop-{role}", "service.version": driftloop.__version__, "stream": settings.stream}
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.trace.sample), resource=Resource.create(about), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(_log_once(_exporter(settings.trace))))
    return provider


def _exporter(chosen: TraceSettings) -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    if chosen.exporter == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise DriftloopError(
                "Traces cannot be sent to a collector, as opentelemetry-exporter-otlp-proto-http is not installed: "
                "install driftloop[trace], or set DRIFTLOOP_TRACE__EXPORTER=file."
            ) from error
        return OTLPSpanExporter()
    if not chosen.file:
        raise DriftloopError("DRIFTLOOP_TRACE__EXPORTER=file needs DRIFTLOOP_TRACE__FILE, the file to write spans to.")
    try:
        # Buffered by the line: several processes may append to one file, and no line is torn.
        out = Path(chosen.file).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    except OSError as error:
        raise DriftloopError(
            f"Spans cannot be written to {chosen.file} ({error.strerror}): set DRIFTLOOP_TRACE__FILE to a file that "
            "can be written to."
        ) from error
    return ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")


def _log_once(exporter: SpanExporter) -> SpanExporter:
    """The exporter, whose failures are said once until it succeeds again."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Said(SpanExporter):
        failing = False

        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            why = ""
            try:
                result = exporter.export(spans)
            except Exception as error:  # whatever the disk or the exporter's libraries raise
                why, result = f" ({error})", SpanExportResult.FAILURE
            failed = result is not SpanExportResult.SUCCESS
            if failed and not self.failing:
                log.warning("spans cannot be handed over%s: they are dropped until they can; the stream goes on", why)
            self.failing = failed
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Said()
