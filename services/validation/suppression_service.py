"""The part of ValidationService that keeps the suppression list."""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

from domainflow.validation.v1 import suppression_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.seal import Seal, binding
from services.chassis.server import Rules, ThoroughRules
from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.content.suppression import (
    BadEntry,
    EntryKind,
    parse_entry,
    stored_forms,
)
from services.validation.named_page import Place
from services.validation.suppression_store import (
    NewSuppression,
    Scope,
    Suppressed,
    Suppressions,
)

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 10_000
# Bytes of a page, about: an answer has to fit into what clients take, 4 MiB by default.
PAGE_BYTES = 2 * 1024 * 1024
_MAX_VALUES = 1_000
_MAX_ENTRIES = 10_000

Context = Any


class SuppressionService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _suppressions: Suppressions
    _seal: Seal

    async def AddSuppressions(
        self, request: pb.AddSuppressionsRequest, context: Context
    ) -> pb.AddSuppressionsResponse:
        given = await self._read_added(request)
        created, present = await self._suppressions.add(given, validate_only=request.validate_only)
        return pb.AddSuppressionsResponse(created_count=created, present_count=present)

    async def RemoveSuppressions(
        self, request: pb.RemoveSuppressionsRequest, context: Context
    ) -> pb.RemoveSuppressionsResponse:
        removed = await self._suppressions.remove(await self._read_removed(request))
        return pb.RemoveSuppressionsResponse(removed_count=removed)

    async def ListSuppressions(
        self, request: pb.ListSuppressionsRequest, context: Context
    ) -> pb.ListSuppressionsResponse:
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        prefix = request.prefix.strip().lower()
        bound = binding("ListSuppressions", prefix.encode())
        token = request.page_token
        after = Place.open(self._seal, token, bound).name if token else ""
        found = await self._suppressions.page(prefix, after, size + 1)
        response = pb.ListSuppressionsResponse()
        room = PAGE_BYTES
        for entry in found[:size]:
            message = _to_pb(entry)
            room -= message.ByteSize()
            if room < 0 and response.suppressions:
                break
            response.suppressions.append(message)
        shown = len(response.suppressions)
        if shown < len(found):
            place = Place(found[shown - 1].entry)
            response.next_page_token = place.seal(self._seal, bound)
        return response

    async def CheckSuppressions(
        self, request: pb.CheckSuppressionsRequest, context: Context
    ) -> pb.CheckSuppressionsResponse:
        names: dict[str, str] = {}
        addresses: dict[str, str] = {}
        for value in request.values:
            kind = addresses if "@" in value else names
            kind[value] = _normalised(value)
        found = await self._suppressions.of_names(set(names.values()))
        found |= await self._suppressions.of_addresses(set(addresses.values()))
        response = pb.CheckSuppressionsResponse()
        for value in request.values:
            checked = response.checked_suppressions.add(value=value)
            entry = found.get(names.get(value) or addresses[value])
            if entry is not None:
                checked.suppression.CopyFrom(_to_pb(entry))
        return response

    def _suppression_rules(self) -> ThoroughRules:
        async def check_added(request: pb.AddSuppressionsRequest) -> Sequence[FieldViolation]:
            return await _violations(self._read_added(request))

        async def check_removed(request: pb.RemoveSuppressionsRequest) -> Sequence[FieldViolation]:
            return await _violations(self._read_removed(request))

        return {
            pb.AddSuppressionsRequest: check_added,
            pb.RemoveSuppressionsRequest: check_removed,
        }

    async def _read_added(self, request: pb.AddSuppressionsRequest) -> list[NewSuppression]:
        """In a thread: ten thousand entries take a tenth of a second to read. Raises
        InvalidFields."""
        # The contract's rules speak about the ones beyond.
        suppressions = request.suppressions[:_MAX_ENTRIES]
        has_salt = bool(self._suppressions.salt)
        return await asyncio.to_thread(_given, suppressions, has_salt=has_salt)

    async def _read_removed(self, request: pb.RemoveSuppressionsRequest) -> list[str]:
        """As above."""
        return await asyncio.to_thread(_stored_forms, request.entries[:_MAX_ENTRIES])


async def _violations(reading: Awaitable[object]) -> Sequence[FieldViolation]:
    """What is found on the way."""
    try:
        await reading
    except InvalidFields as refused:
        return refused.violations
    return ()


def _given(suppressions: Sequence[pb.Suppression], *, has_salt: bool) -> list[NewSuppression]:
    """Raises InvalidFields, which names every bad entry. Bears what breaks the contract's rules."""
    given = []
    violations = []
    for index, each in enumerate(suppressions):
        path = f"suppressions[{index}]"
        scope = Scope.FETCH if each.scope == pb.SUPPRESSION_SCOPE_FETCH else Scope.LEADS
        if "\0" in each.reason:
            problem = "has a NUL character, which no table takes"
            violations.append(FieldViolation(f"{path}.reason", problem))
        try:
            entry = parse_entry(each.entry)
        except BadEntry as bad:
            violations.append(FieldViolation(f"{path}.entry", str(bad)))
            continue
        if entry.is_hashed and not has_salt:
            problem = "is a hash, and the service has no salt (DOMAINFLOW_SUPPRESSION_SALT)"
            violations.append(FieldViolation(f"{path}.entry", problem))
        if scope is Scope.FETCH and entry.kind is not EntryKind.DOMAIN:
            problem = "is FETCH, which goes with names only"
            violations.append(FieldViolation(f"{path}.scope", problem))
        given.append(NewSuppression(str(entry), scope, each.reason))
    if violations:
        raise InvalidFields(violations)
    return given


def _stored_forms(entries: Sequence[str]) -> list[str]:
    """Raises InvalidFields, which names every bad entry."""
    forms: list[str] = []
    violations = []
    for index, text in enumerate(entries):
        try:
            forms += stored_forms(text)
        except BadEntry as bad:
            violations.append(FieldViolation(f"entries[{index}]", str(bad)))
    if violations:
        raise InvalidFields(violations)
    return forms


def check_values(request: pb.CheckSuppressionsRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about CheckSuppressions."""
    # The contract's rules speak about the ones beyond.
    for index, value in enumerate(request.values[:_MAX_VALUES]):
        try:
            _normalised(value)
        except (NotADomainName, NotAnAddress) as problem:
            yield FieldViolation(f"values[{index}]", str(problem))


def check_list(request: pb.ListSuppressionsRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about ListSuppressions."""
    if "\0" in request.prefix:
        yield FieldViolation("prefix", "has a NUL character, which no entry has")


def _normalised(value: str) -> str:
    """A name or an e-mail address in its normal form. Raises NotADomainName, NotAnAddress."""
    return normalise_address(value) if "@" in value else normalise(value)


def _to_pb(entry: Suppressed) -> pb.Suppression:
    message = pb.Suppression(
        entry=entry.entry, scope=pb.SuppressionScope.ValueType(entry.scope), reason=entry.reason
    )
    message.create_time.FromDatetime(entry.create_time)
    return message


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    pb.CheckSuppressionsRequest: check_values,
    pb.ListSuppressionsRequest: check_list,
}
