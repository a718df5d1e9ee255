"""Every reason in the code stands in the contract, and the other way round."""

from collections.abc import Iterator

import grpc

from domainflow.error.v1.error_reason_pb2 import ErrorReason
from services.chassis.errors import ServiceError


def leaves(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """The classes that are raised: those with a reason."""
    if hasattr(kind, "reason"):
        yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


def test_reasons_and_contract_are_the_same_set() -> None:
    in_code = [kind.reason for kind in leaves()]
    in_contract = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}

    assert set(in_code) == in_contract - {"UNSPECIFIED"}
    assert len(in_code) == len(set(in_code))


def test_every_error_has_a_status_code() -> None:
    codes = {code.name for code in grpc.StatusCode}

    assert {kind.code for kind in leaves()} <= codes
