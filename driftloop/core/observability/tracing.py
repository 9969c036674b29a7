"""OpenTelemetry traces, one per event, from its sending to its outcome. They are disabled by default.

The replay creates the spans `send events` and `send labels`, the scorer `score`, the monitor `join`, and the writer of
a dead letter `bury`. The Kafka header ``traceparent`` (W3C Trace Context) carries the trace of an event; message bodies
never contain it. The store keeps it while a prediction and its label wait for each other, see
`stream_processors.monitoring.join_tracing`. A message that is read again after a crash gets a second span.

Headers are untrusted: a malformed or repeated one is ignored. Spans are exported in the background and dropped if the
exporter is too slow, so the stream never waits for them. OpenTelemetry's variables ``OTEL_EXPORTER_OTLP_ENDPOINT`` and
``OTEL_BSP_MAX_QUEUE_SIZE`` set the collector and the queue length.
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
"""Headers of a Kafka message."""
TRACEPARENT = "traceparent"
PROPAGATOR = TraceContextTextMapPropagator()
MAX_KEY_LENGTH = 1024
"""Characters of a message's key in a span."""
SHUTDOWN_SECONDS = 3.0
"""Maximum seconds that a process waits at its end for the export of its last spans."""

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


@contextmanager
def tracing(settings: Settings, role: str) -> Iterator[None]:
    """Record spans while the block runs, if the settings enable them.

    Args:
        settings: Exporter, sampling and stream id.
        role: Verb of the command line that this process runs.

    Raises:
        DriftloopError: The file of the spans cannot be written, or the exporter's package is not installed.
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
    """Export the last spans, for up to `SHUTDOWN_SECONDS`. Call it before an exit without unwinding."""
    global _provider, _tracer
    if _provider is None:
        return
    exporting = threading.Thread(target=_provider.shutdown, daemon=True, name="last spans")
    _provider, _tracer = None, None
    exporting.start()
    exporting.join(SHUTDOWN_SECONDS)


def enabled() -> bool:
    """Return True if spans are recorded. Otherwise headers are not read."""
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
    """Start a span in the trace of a received message, or in a new trace.

    Args:
        name: Name of the span.
        kind: Direction of the message: producer sends it, consumer receives it.
        topic: Topic of that message.
        key: Key of that message, which is the id of its event.
        came_with: Headers of the received message.
        linked: Headers of a second message that the span links to.
        began: Start in nanoseconds since 1970. `None`: now.

    Returns:
        The span. `None` if traces are disabled.
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
    """End spans.

    Args:
        spans: Results of `start`.
        error: Description of an error. Empty: no error.
    """
    for span in spans:
        if span is not None:
            if error:
                span.set_status(Status(StatusCode.ERROR, error))
            span.end()


def inject_headers(span: Span | None) -> Headers:
    """Return the headers of a message that is sent in a span. Empty if traces are disabled."""
    return () if span is None else _inject(span.get_span_context())


@contextmanager
def error_span(name: str, topic: str, key: str, came_with: Headers, error: str) -> Iterator[Headers]:
    """Record a failed span around a block, and add its trace to the block's log lines.

    Args:
        name: Name of the span.
        topic: Topic of the received message.
        key: Key of the received message.
        came_with: Headers of the received message.
        error: Description of the error.

    Yields:
        Headers for messages that the block sends.
    """
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
    """Return the headers that name a trace, from the headers of a received message. Empty if it has no trace."""
    named = _extract(headers)
    return () if named is None else _inject(named)


def _extract(headers: Headers) -> SpanContext | None:
    """Return the span that headers name. None if they name no span."""
    found = [value for key, value in headers if key == TRACEPARENT]
    if len(found) != 1:
        return None
    text = (found[0] or b"").decode("ascii", "replace")  # the value of a header can be null
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

    # OpenTelemetry logs a failed export for every batch with a traceback; `_log_once` replaces that.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    resource = {
        "service.name": f"driftloop-{role}",
        "service.version": driftloop.__version__,
        "stream": settings.stream,
    }
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.trace.sample),
        resource=Resource.create(resource),
        shutdown_on_exit=False,
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
        # Line buffering: several processes can append to one file without mixing lines.
        out = Path(chosen.file).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    except OSError as error:
        raise DriftloopError(
            f"Spans cannot be written to {chosen.file} ({error.strerror}): set DRIFTLOOP_TRACE__FILE to a file that "
            "can be written to."
        ) from error
    return ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")


def _log_once(exporter: SpanExporter) -> SpanExporter:
    """Wrap an exporter: a failure is logged once until an export succeeds."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class LogOnceExporter(SpanExporter):
        failing = False

        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            why = ""
            try:
                result = exporter.export(spans)
            except Exception as error:  # the disk or the exporter's libraries can raise any type
                why, result = f" ({error})", SpanExportResult.FAILURE
            failed = result is not SpanExportResult.SUCCESS
            if failed and not self.failing:
                log.warning(
                    "spans cannot be exported%s: they are dropped until the exporter recovers; the stream continues",
                    why,
                )
            self.failing = failed
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return LogOnceExporter()
