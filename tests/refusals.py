"""Reads what a refused call says: code, ErrorInfo and the fields of BadRequest."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class Refusal:
    code: str
    reason: str
    metadata: dict[str, str]
    message: str
    fields: set[str]
    # Seconds; None without RetryInfo.
    retry_after: float | None


def read(error: grpc.aio.AioRpcError) -> Refusal:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retried = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        retried |= detail.Unpack(retry)
    assert info.domain == "domainflow"
    return Refusal(
        code=error.code().name,
        reason=info.reason,
        metadata=dict(info.metadata),
        message=status.message,
        fields={violation.field for violation in bad.field_violations},
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retried else None,
    )


async def refused(call: Awaitable[Any]) -> Refusal:
    """The refusal of a unary call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read(caught.value)
