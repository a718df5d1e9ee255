"""A gRPC error as one line for a person and an exit code for a script."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from services.cli.exits import ExitCode

_DETAILS_KEY = "grpc-status-details-bin"

# The codes with which a door, a proxy or a dying server ends a call. Without an ErrorInfo they
# were not said by one of our services.
_CUT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that broke a rule."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a failed call said. `reason` is empty when none of our services said it."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()

    @property
    def is_passing(self) -> bool:
        """Whether the same call may succeed a moment later."""
        return self.code in (_PASSING if self.reason else _CUT)

    @property
    def exit_code(self) -> ExitCode:
        if self.code is grpc.StatusCode.INVALID_ARGUMENT:
            return ExitCode.USAGE
        if self.code is grpc.StatusCode.UNAVAILABLE:
            return ExitCode.NOT_REACHABLE
        if self.code is grpc.StatusCode.DEADLINE_EXCEEDED and not self.reason:
            return ExitCode.NOT_REACHABLE
        return ExitCode.FAILURE

    def __str__(self) -> str:
        known = sorted((key, value) for key, value in self.metadata.items() if value)
        facts = " ".join(f"{key}={value}" for key, value in known)
        label = " ".join(part for part in (self.reason or self.code.name, facts) if part)
        # The message may name them already.
        unsaid = [v for v in self.violations if v.description not in self.message]
        violations = "; ".join(f"{v.field}: {v.description}" for v in unsaid)
        line = f"{self.message or 'no further explanation'} [{label}]"
        return " ".join((f"{line} {violations}" if violations else line).split())


def read(error: grpc.aio.AioRpcError) -> Refusal:
    """Decode the details of a failed call; damaged details are as good as none."""
    code, message = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        message = _without_transport_noise(message)
    status = _status(error.trailing_metadata() or ())
    reason, metadata, violations = "", {}, list[Violation]()
    for detail in status.details:
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        try:
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(request):
                violations += (Violation(v.field, v.description) for v in request.field_violations)
        except DecodeError:
            continue
    return Refusal(code, message, reason, metadata, tuple(violations))


def _status(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _without_transport_noise(message: str) -> str:
    """gRPC wraps a refused connection in the history of its attempts; the last cause suffices."""
    if message.startswith("failed to connect to all addresses"):
        return "nothing answers at this address"
    return message
