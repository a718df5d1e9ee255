"""serve(): one gRPC service as a process, from its first health check to its drained end.

Every call passes one guard: admission, trace, rules of the contract, errors. Nothing below it deals
with those.
"""

import asyncio
import logging
import random
import signal
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from services.chassis import jetstream, postgres, telemetry
from services.chassis.contract import SERVICES
from services.chassis.errors import (
    DeadlineExceeded,
    FieldViolation,
    InternalFault,
    InvalidFields,
    PartUnavailable,
    ServiceError,
    TooManyCalls,
)
from services.chassis.rules import ContractRules

log = logging.getLogger(__name__)

ERROR_DOMAIN = "domainflow"
# The server answers this much before the caller's deadline, so that the specific error still gets
# out.
DEADLINE_MARGIN = 0.02
READY_PERIOD = 2.0
# A status travels in the trailers, base64 and percent-encoded, and clients take 8 KB of those. So
# the bytes of a message and of the violations are bounded; what is left out is counted.
MAX_MESSAGE = 800
MAX_VIOLATION = 300
MAX_VIOLATIONS = 2500
UNGUARDED = ("/grpc.health.v1.Health/", "/grpc.reflection.")

OPTIONS = [
    # Two processes must never share a port by accident.
    ("grpc.so_reuseport", 0),
    # Envoy's keepalive pings come every 30 s; without this the server answers them with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
]

# Generic in the stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Register = Callable[[grpc.aio.Server], None]
# What the contract's own rules cannot say about a request: request type -> its violations. Runs
# beside those rules, so that every bad field is named at once; it must bear fields that break them.
Rules = Mapping[type[Message], Callable[[Any], Iterable[FieldViolation]]]
# What takes long to find in a request, or needs to know the service: whoever carries it out looks
# for it. A request that is refused before is asked here, so that every bad field is named at once.
ThoroughRules = Mapping[type[Message], Callable[[Any], Awaitable[Iterable[FieldViolation]]]]


async def serve(
    address: str,
    *,
    service_name: str,
    register: Register,
    ready: Callable[[], Awaitable[None]],
    rules: Rules | None = None,
    thorough_rules: ThoroughRules | None = None,
    max_calls: int = 200,
    max_streams: int = 2000,
    drain_delay: float = 1.0,
    grace: float = 10.0,
    on_bound: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    `ready` is polled; while it raises, health says NOT_SERVING. `max_calls` unary calls and
    `max_streams`
    streams are admitted at once, the next is refused with TOO_MANY_CALLS. Draining: health says
    NOT_SERVING for `drain_delay` seconds, streams are told to come back (UNAVAILABLE), calls get
    `grace`
    seconds to end.
    """
    guard = CallGuard(
        rules=rules or {},
        thorough_rules=thorough_rules or {},
        max_calls=max_calls,
        max_streams=max_streams,
    )
    server = grpc.aio.server(interceptors=[guard], options=OPTIONS)
    register(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        [*SERVICES, reflection.SERVICE_NAME, health.SERVICE_NAME], server
    )
    on_bound(server.add_insecure_port(address))

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)

    async with AsyncExitStack() as stack:
        # Also when we are cancelled: a server must not outlive its loop.
        stack.push_async_callback(server.stop, None)
        poll = asyncio.create_task(_poll_ready(ready, health_servicer, service_name))
        stack.push_async_callback(_cancelled, poll)
        await server.start()
        log.info("serving %s on %s", service_name, address)
        await stop.wait()
        log.info("draining")
        await _cancelled(poll)
        await health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(drain_delay)
        guard.end_streams()
        await server.stop(grace)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _poll_ready(
    ready: Callable[[], Awaitable[None]], servicer: health.aio.HealthServicer, service_name: str
) -> None:
    serving = None
    while True:
        try:
            async with asyncio.timeout(READY_PERIOD * 2):
                await ready()
            now_serving = True
        except Exception as error:  # whatever it is, the service cannot serve
            now_serving = False
            if serving is not False:
                log.warning("not ready: %s: %s", type(error).__name__, error)
        if now_serving != serving:
            status = health_pb2.HealthCheckResponse
            value = status.SERVING if now_serving else status.NOT_SERVING
            await servicer.set("", value)
            await servicer.set(service_name, value)
            serving = now_serving
        await asyncio.sleep(READY_PERIOD if serving else 0.2)


class CallGuard(grpc.aio.ServerInterceptor):
    """Admission, trace, contract rules and errors of every call but health and reflection.

    grpcio's own `maximum_concurrent_rpcs` can be bypassed (grpc#41531), so admission is counted
    here.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        max_calls: int,
        max_streams: int,
        thorough_rules: ThoroughRules | None = None,
    ) -> None:
        self._rules = rules
        self._thorough_rules = thorough_rules or {}
        self._limits = {"calls": max_calls, "streams": max_streams}
        self._in_progress = {"calls": 0, "streams": 0}
        self._streams: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._contract = ContractRules()

    def end_streams(self) -> None:
        """Tell every open stream to come back elsewhere."""
        self._draining = True
        for task in self._streams:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(UNGUARDED):
            return handler
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            stream = self._guard_stream(method, handler.stream_stream, self._checked)
            return grpc.stream_stream_rpc_method_handler(stream, **codec)
        if handler.response_streaming:
            stream = self._guard_stream(method, handler.unary_stream, self._check)
            return grpc.unary_stream_rpc_method_handler(stream, **codec)
        if handler.request_streaming:
            call = self._guard_call(method, handler.stream_unary, self._checked, "streams")
            return grpc.stream_unary_rpc_method_handler(call, **codec)
        call = self._guard_call(method, handler.unary_unary, self._check, "calls")
        return grpc.unary_unary_rpc_method_handler(call, **codec)

    def _guard_call(self, method: str, behaviour: Any, check: Any, kind: str) -> Any:
        async def call(request: Any, context: Context) -> Any:
            async with self._answer(method, context, kind):
                remaining = context.time_remaining() if kind == "calls" else None
                timeout = None if remaining is None else max(0.0, remaining - DEADLINE_MARGIN)
                try:
                    async with asyncio.timeout(timeout) as deadline:
                        return await behaviour(await check(request), context)
                except TimeoutError:
                    # A part that does not answer in its own time is another matter.
                    if not deadline.expired():
                        raise
                    message = "the deadline ended before the answer was ready"
                    raise DeadlineExceeded(message) from None

        return call

    def _guard_stream(self, method: str, behaviour: Any, check: Any) -> Any:
        # Not a generator: one that a hang-up closes from outside ends in another context than it
        # began in, and with it its span.
        async def stream(request: Any, context: Context) -> None:
            async with self._answer(method, context, "streams"):
                async with aclosing(behaviour(await check(request), context)) as messages:
                    async for message in messages:
                        with _to_whom_is_there():
                            await context.write(message)

        return stream

    async def _check(self, message: Message) -> Message:
        # The other rules, too, look at no more of it than its limits allow.
        seen, violations = self._contract.look(message)
        named = {violation.field for violation in violations}
        if (rule := self._rules.get(type(message))) is not None:
            violations += [v for v in rule(seen) if v.field not in named]
        if violations:
            if (thorough := self._thorough_rules.get(type(message))) is not None:
                named = {violation.field for violation in violations}
                violations += [v for v in await thorough(seen) if v.field not in named]
            raise InvalidFields(violations)
        return message

    async def _checked(self, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async def checked() -> AsyncIterator[Message]:
            async for message in messages:
                yield await self._check(message)

        return checked()

    @asynccontextmanager
    async def _answer(self, method: str, context: Context, kind: str) -> AsyncIterator[None]:
        """Count the call, trace it, and turn what it raises into a status."""
        task = asyncio.current_task()
        assert task is not None
        if self._in_progress[kind] >= self._limits[kind]:
            refusal = TooManyCalls(
                f"{self._limits[kind]} {kind} are in progress",
                # Spread out, so that the refused do not come back as one.
                retry_after=random.uniform(0.5, 1.5),
                limit=self._limits[kind],
            )
            await _abort(context, refusal)
        self._in_progress[kind] += 1
        if kind == "streams":
            self._streams.add(task)
        try:
            with telemetry.call_span(method, context.invocation_metadata()):
                try:
                    yield
                except asyncio.CancelledError:
                    if not (self._draining and kind == "streams"):
                        raise
                    leaving = PartUnavailable(
                        "the server is going away; resume elsewhere", retry_after=0.1, part=method
                    )
                    await _abort(context, leaving)
                except grpc.aio.BaseError:
                    raise
                except Exception as error:
                    await _abort(context, _as_refusal(error))
        finally:
            self._in_progress[kind] -= 1
            self._streams.discard(task)


@contextmanager
def _to_whom_is_there() -> Iterator[None]:
    """What cannot be sent, because the caller is gone, ends the call as his hang-up would."""
    try:
        yield
    except grpc.aio.InternalError:
        # gRPC lets it pass only when it has heard of the hang-up before, and logs an error if not.
        raise asyncio.CancelledError from None


async def _abort(context: Context, refusal: ServiceError) -> None:
    with _to_whom_is_there():
        await context.abort_with_status(to_status(refusal))


def _as_refusal(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    # The driver's ValueErrors are InterfaceErrors, but the fault is in what we gave it.
    if isinstance(error, postgres.AWAY) and not isinstance(error, ValueError):
        log.warning("database away: %s: %s", type(error).__name__, error)
        return PartUnavailable("the database is away", retry_after=1, part="postgres")
    if isinstance(error, jetstream.AWAY):
        log.warning("queue away: %s: %s", type(error).__name__, error)
        return PartUnavailable("the queue is away", retry_after=1, part="nats")
    log.error("call failed, trace %s", telemetry.trace_id(), exc_info=error)
    return InternalFault(f"internal error, trace {telemetry.trace_id()}")


def to_status(error: ServiceError) -> Any:
    """The gRPC status of a refusal: code, message, ErrorInfo and, where they apply, BadRequest and
    RetryInfo."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
        )
    ]
    if error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in _shown(error.violations):
            bad_request.field_violations.add(
                field=violation.field, description=violation.description
            )
        details.append(bad_request)
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        entry = any_pb2.Any()
        entry.Pack(detail)
        packed.append(entry)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code),
        message=_shortened(error.message, MAX_MESSAGE),
        details=packed,
    )
    return rpc_status.to_status(status)


def _shown(violations: Sequence[FieldViolation]) -> Iterator[FieldViolation]:
    """As many violations as a status holds; the last one then counts the others."""
    room = MAX_VIOLATIONS
    for number, violation in enumerate(violations):
        description = _shortened(violation.description, MAX_VIOLATION)
        room -= len(violation.field.encode()) + len(description.encode())
        if room < 0 < number:
            left = len(violations) - number
            yield FieldViolation(violation.field, f"and {left} violations from here on")
            return
        yield FieldViolation(violation.field, description)


def _shortened(text: str, size: int) -> str:
    """The text, in at most `size` bytes of UTF-8."""
    encoded = text.encode()
    if len(encoded) <= size:
        return text
    return encoded[: size - 3].decode(errors="ignore") + "..."
