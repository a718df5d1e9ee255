"""What the contracts' own rules (protovalidate) say about a message."""

from typing import Any

import protovalidate
from google.protobuf.message import Message

from services.chassis.errors import FieldViolation


class ContractRules:
    """The rules that stand in the contracts, compiled when they are first needed."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def violations(self, message: Message) -> list[FieldViolation]:
        """Every field of the message that breaks a rule, by its path in the message."""
        return [
            FieldViolation(_path(v.proto), v.proto.message or v.proto.rule_id)
            for v in self._validator.collect_violations(message)
        ]


def _path(violation: Any) -> str:
    """`pattern.tlds[2]` from a protovalidate field path."""
    parts = []
    for element in violation.field.elements:
        part = element.field_name
        subscript = element.subscript
        if subscript is not None:
            value = getattr(subscript, "value", subscript)
            part += f"[{value}]"
        parts.append(part)
    return ".".join(parts)
