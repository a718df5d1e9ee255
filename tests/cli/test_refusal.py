import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from services.cli import refusal
from services.cli.exits import ExitCode


def failed(
    code: grpc.StatusCode, message: str, *details: Message, raw: bytes | None = None
) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailing = grpc.aio.Metadata(
        ("grpc-status-details-bin", status.SerializeToString() if raw is None else raw)
    )
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message)


def violation(field: str, description: str) -> error_details_pb2.BadRequest.FieldViolation:
    return error_details_pb2.BadRequest.FieldViolation(field=field, description=description)


def test_refusal_is_one_line_with_reason_and_every_field() -> None:
    error = failed(
        grpc.StatusCode.INVALID_ARGUMENT,
        "2 fields are wrong",
        error_details_pb2.ErrorInfo(reason="INVALID_FIELDS", domain="domainflow"),
        error_details_pb2.BadRequest(
            field_violations=[
                violation("name", "must have\n1 to 200 characters"),
                violation("configuration.dns.timeout", "at most 30 s"),
            ]
        ),
    )

    said = refusal.read(error)

    assert str(said) == (
        "2 fields are wrong [INVALID_FIELDS] name: must have 1 to 200 characters;"
        " configuration.dns.timeout: at most 30 s"
    )
    assert said.exit_code is ExitCode.USAGE


def test_refusal_tells_the_metadata_of_its_reason() -> None:
    info = error_details_pb2.ErrorInfo(
        reason="CAMPAIGN_NOT_FOUND", domain="domainflow", metadata={"campaign_id": "42"}
    )

    said = refusal.read(failed(grpc.StatusCode.NOT_FOUND, "no such campaign", info))

    assert str(said) == "no such campaign [CAMPAIGN_NOT_FOUND campaign_id=42]"
    assert said.exit_code is ExitCode.FAILURE


def test_damaged_details_leave_code_and_message() -> None:
    said = refusal.read(failed(grpc.StatusCode.NOT_FOUND, "gone", raw=b"\xff\xff\xff"))

    assert str(said) == "gone [NOT_FOUND]"


@pytest.mark.parametrize(
    ("code", "reason", "passing"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", True),
        (grpc.StatusCode.UNAVAILABLE, "PART_UNAVAILABLE", True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", True),
        (grpc.StatusCode.INTERNAL, "", True),
        (grpc.StatusCode.INTERNAL, "INTERNAL", False),
        (grpc.StatusCode.NOT_FOUND, "CAMPAIGN_NOT_FOUND", False),
        (grpc.StatusCode.UNIMPLEMENTED, "", False),
    ],
)
def test_only_what_may_pass_is_tried_again(
    code: grpc.StatusCode, reason: str, passing: bool
) -> None:
    details = [error_details_pb2.ErrorInfo(reason=reason)] if reason else []

    assert refusal.read(failed(code, "no", *details)).is_passing is passing
