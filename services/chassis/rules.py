"""What the contracts' own rules (protovalidate) say about a message."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.message import Message

from services.chassis.errors import FieldViolation

# Elements of a list or a map whose contract names no limit: none needs as many.
MAX_ELEMENTS = 10_000
# Elements of a list that are looked at together at first, and violations that are enough then: each
# takes some 20 us, and an answer shows a few dozen.
_FIRST_LOOK = 1_000
_ENOUGH = 1_000
# Of a list in an element of another, however many of those there are.
_INNER_LOOK = 10


@dataclass(frozen=True, slots=True)
class _Cut:
    """A list that was too long."""

    path: str
    size: int
    limit: int


class ContractRules:
    """The rules that stand in the contracts, compiled when they are first needed."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()
        # By full names: limits of repeated fields, and whether messages have any in them.
        self._limits: dict[str, int] = {}
        self._having_lists: dict[str, bool] = {}

    def violations(self, message: Message) -> list[FieldViolation]:
        """The fields of the message that break a rule, by their paths in the message: all of them,
        or some thousands, and then also which list was not looked at to its end. Lists beyond their
        limits are looked at up to these."""
        return self.look(message)[1]

    def look(self, message: Message) -> tuple[Any, list[FieldViolation]]:
        """The same, and what of the message other rules should look at: all of it, or a copy with
        no list beyond its limit, so that a request costs what its limits allow."""
        told: list[FieldViolation] = []
        if self._exceeds(message, None):
            message, cuts = self._cut(message, None)
            told += [
                FieldViolation(it.path, f"has {it.size:,} elements, at most {it.limit:,}")
                for it in cuts
            ]
        if not self._exceeds(message, _FIRST_LOOK):
            return message, told + self._named(message)
        if not self._validator.collect_violations(message, fail_fast=True):
            return message, told
        share = _FIRST_LOOK
        while True:
            part, cuts = self._cut(message, share)
            named = self._named(part)
            if not cuts:
                break
            if len(named) >= _ENOUGH:
                told += [
                    FieldViolation(
                        it.path,
                        f"has {it.size:,} elements, of which the first {it.limit:,} were looked at:"
                        " too much is wrong already",
                    )
                    for it in cuts
                ]
                break
            # In small steps: the next one may find everything wrong.
            share = share * 3 // 2
        return message, told + named

    def _named(self, message: Message) -> list[FieldViolation]:
        return [
            FieldViolation(_path(v.proto), v.proto.message or v.proto.rule_id)
            for v in self._validator.collect_violations(message)
        ]

    def _exceeds(self, message: Message, share: int | None) -> bool:
        """Whether a list of the message is longer than its limit, or than its share."""
        for field, value in self._parts(message):
            if not field.is_repeated:
                if self._exceeds(value, share):
                    return True
                continue
            size, limit = len(value), self._limit(field, share)
            if size > limit:
                return True
            if self._has_inner(field):
                inner = _inner(share, size)
                if any(self._exceeds(each, inner) for each in value):
                    return True
        return False

    def _cut(self, message: Message, share: int | None) -> tuple[Message, list[_Cut]]:
        """A copy without what exceeds."""
        cuts: list[_Cut] = []
        copy = type(message)()
        self._fill(copy, message, "", share, cuts)
        return copy, cuts

    def _fill(
        self, copy: Any, message: Message, path: str, share: int | None, cuts: list[_Cut]
    ) -> None:
        for field, value in message.ListFields():
            at = f"{path}{field.name}"
            if not field.is_repeated:
                if field.message_type is None:
                    setattr(copy, field.name, value)
                elif self._has_lists(field.message_type):
                    inside = getattr(copy, field.name)
                    inside.SetInParent()
                    self._fill(inside, value, f"{at}.", share, cuts)
                else:
                    getattr(copy, field.name).CopyFrom(value)
                continue
            size, limit = len(value), self._limit(field, share)
            if size > limit:
                cuts.append(_Cut(at, size, limit))
            target = getattr(copy, field.name)
            if _is_map(field):
                for key in islice(value, limit):
                    if isinstance(value[key], Message):
                        target[key].CopyFrom(value[key])
                    else:
                        target[key] = value[key]
            elif self._has_inner(field):
                inner = _inner(share, min(size, limit))
                for index, each in enumerate(islice(value, limit)):
                    self._fill(target.add(), each, f"{at}[{index}].", inner, cuts)
            else:
                target.extend(value[:limit])

    def _parts(self, message: Message) -> Iterator[tuple[Any, Any]]:
        """The fields of a message that are lists or have some in them, and their values."""
        for field, value in message.ListFields():
            if field.is_repeated or (
                field.message_type is not None and self._has_lists(field.message_type)
            ):
                yield field, value

    def _limit(self, field: Any, share: int | None) -> int:
        limit = self._limits.get(field.full_name)
        if limit is None:
            rules = field.GetOptions().Extensions[validate_pb2.field]
            limit = rules.repeated.max_items or rules.map.max_pairs or MAX_ELEMENTS
            self._limits[field.full_name] = limit
        return limit if share is None else min(limit, share)

    def _has_inner(self, field: Any) -> bool:
        """Whether the elements of a list have lists in them. Messages in maps are left whole."""
        return (
            field.message_type is not None
            and not _is_map(field)
            and self._has_lists(field.message_type)
        )

    def _has_lists(self, descriptor: Any) -> bool:
        found = self._having_lists.get(descriptor.full_name)
        if found is None:
            # One that is in itself is looked into.
            self._having_lists[descriptor.full_name] = True
            found = any(
                field.is_repeated
                or (field.message_type is not None and self._has_lists(field.message_type))
                for field in descriptor.fields
            )
            self._having_lists[descriptor.full_name] = found
        return found


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _inner(share: int | None, elements: int) -> int | None:
    """The share of a list in each of so many elements."""
    return None if share is None else max(_INNER_LOOK, share // max(1, elements))


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
