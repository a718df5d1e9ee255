"""Logging, traces and meters of a process. One call each, from __main__ and from the server."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

TRACER = trace.get_tracer("domainflow")
# Records nothing until a provider is set: one without a reader would cost 2 us a figure for nobody.
METER = metrics.get_meter("domainflow")
_METHOD: ContextVar[str] = ContextVar("method", default="")


def set_up(service_name: str, *, json_logs: bool = False, level: str = "INFO") -> None:
    """Log to stderr, as text or as one JSON object a line, and give every call a trace id."""
    handler = logging.StreamHandler(sys.stderr)
    text = f"%(asctime)s {service_name} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(_JsonFormatter(service_name) if json_logs else logging.Formatter(text))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("nats").setLevel(logging.WARNING)
    trace.set_tracer_provider(
        TracerProvider(resource=Resource.create({"service.name": service_name}))
    )


@contextmanager
def call_span(method: str, metadata: Iterable[tuple[str, Any]] | None) -> Iterator[None]:
    """The span of an incoming call, continuing the caller's W3C trace if there is one."""
    carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
    # Every call is a task of its own: nobody comes after it in its context.
    _METHOD.set(method.rpartition("/")[2])
    with TRACER.start_as_current_span(
        method, context=extract(carrier), kind=trace.SpanKind.SERVER, record_exception=False
    ):
        yield


def current_method() -> str:
    """The method of the call that is answered, such as `ListDomains`; empty outside of any."""
    return _METHOD.get()


def trace_id() -> str:
    """The present trace id, 32 hexadecimal digits; all zeros outside of any span."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)


class _JsonFormatter(logging.Formatter):
    def __init__(self, service_name: str) -> None:
        super().__init__()
        self._service_name = service_name

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "service": self._service_name,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "trace_id": trace_id(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
