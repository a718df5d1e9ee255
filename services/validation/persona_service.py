"""The part of ValidationService that keeps personas: named ways of asking DNS."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from domainflow.validation.v1 import dns_settings_pb2, resolver_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from services.chassis.dns_settings import check_settings
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.requests import request_key
from services.chassis.rules import ContractRules
from services.chassis.seal import Seal, binding
from services.chassis.server import Rules
from services.validation import persona_document
from services.validation.named_store import New, Stored
from services.validation.persona_page import Place
from services.validation.persona_store import Personas
from services.validation.persona_trial import MAX_RESOLVERS, trial
from services.validation.plans import plan_of_settings

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
# Bytes of a page, about: an answer has to fit into what clients take, 4 MiB by default.
PAGE_BYTES = 2 * 1024 * 1024
# Answers to repeated requests are kept for so long.
REQUEST_AGE = timedelta(days=1)
_MAX_NAMES = 10

Context = Any


class PersonaService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    def __init__(self, *, personas: Personas, seal: Seal) -> None:
        self._personas = personas
        self._seal = seal
        self._contract = ContractRules()
        # Imports check in threads, with rules that are compiled when they are first needed.
        self._importing = asyncio.Lock()

    async def CreateDnsPersona(
        self, request: pb.CreateDnsPersonaRequest, context: Context
    ) -> pb.CreateDnsPersonaResponse:
        await self._personas.forget_requests(REQUEST_AGE)
        response = await self._personas.create(
            _new(request.dns_persona),
            request_key(request),
            lambda stored: pb.CreateDnsPersonaResponse(
                dns_persona=persona_to_pb(stored)
            ).SerializeToString(),
            validate_only=request.validate_only,
        )
        return pb.CreateDnsPersonaResponse.FromString(response)

    async def GetDnsPersona(
        self, request: pb.GetDnsPersonaRequest, context: Context
    ) -> pb.GetDnsPersonaResponse:
        persona = await self._personas.get(UUID(request.dns_persona_id))
        return pb.GetDnsPersonaResponse(dns_persona=persona_to_pb(persona))

    async def ListDnsPersonas(
        self, request: pb.ListDnsPersonasRequest, context: Context
    ) -> pb.ListDnsPersonasResponse:
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        bound = binding("ListDnsPersonas", b"")
        token = request.page_token
        after = Place.open(self._seal, token, bound).name if token else None
        personas, more = await self._personas.page(after, size, PAGE_BYTES)
        response = pb.ListDnsPersonasResponse(
            dns_personas=[persona_to_pb(persona) for persona in personas]
        )
        if more:
            response.next_page_token = Place(personas[-1].name).seal(self._seal, bound)
        return response

    async def UpdateDnsPersona(
        self, request: pb.UpdateDnsPersonaRequest, context: Context
    ) -> pb.UpdateDnsPersonaResponse:
        response = await self._personas.update(
            UUID(request.dns_persona.dns_persona_id),
            _new(request.dns_persona),
            lambda stored: pb.UpdateDnsPersonaResponse(
                dns_persona=persona_to_pb(stored)
            ).SerializeToString(),
            etag=request.dns_persona.etag,
            validate_only=request.validate_only,
        )
        return pb.UpdateDnsPersonaResponse.FromString(response)

    async def DeleteDnsPersona(
        self, request: pb.DeleteDnsPersonaRequest, context: Context
    ) -> pb.DeleteDnsPersonaResponse:
        await self._personas.delete(UUID(request.dns_persona_id), etag=request.etag)
        return pb.DeleteDnsPersonaResponse()

    async def TestDnsPersona(
        self, request: pb.TestDnsPersonaRequest, context: Context
    ) -> pb.TestDnsPersonaResponse:
        settings = await self._settings(request.dns_persona_id, request.settings)
        plan = plan_of_settings(settings)
        if len(plan.resolvers) > MAX_RESOLVERS:
            field = "dns_persona_id" if request.dns_persona_id else "settings.resolvers"
            description = f"has {len(plan.resolvers)} resolvers; {MAX_RESOLVERS} are tested at most"
            raise InvalidFields([FieldViolation(field, description)])
        tests = await trial(plan, [normalise(name) for name in request.names])
        return pb.TestDnsPersonaResponse(
            resolver_tests=tests, passed=all(passed(test) for test in tests)
        )

    async def ExportDnsPersonas(
        self, request: pb.ExportDnsPersonasRequest, context: Context
    ) -> pb.ExportDnsPersonasResponse:
        ids = list(dict.fromkeys(UUID(each) for each in request.dns_persona_ids))
        personas = await self._personas.some(ids, persona_document.MAX_SIZE)
        document = None
        if personas is not None and len(personas) <= persona_document.MAX_PERSONAS:
            messages = [persona_to_pb(persona) for persona in personas]
            document = await asyncio.to_thread(persona_document.write, messages)
        if document is None or len(document.encode()) > persona_document.MAX_SIZE:
            description = (
                f"stand for more than a document holds, {persona_document.MAX_PERSONAS:,} personas"
                f" and {persona_document.MAX_SIZE:,} bytes: name fewer"
            )
            raise InvalidFields([FieldViolation("dns_persona_ids", description)])
        return pb.ExportDnsPersonasResponse(document=document)

    async def ImportDnsPersonas(
        self, request: pb.ImportDnsPersonasRequest, context: Context
    ) -> pb.ImportDnsPersonasResponse:
        # A megabyte takes long enough to stop the checks of others.
        async with self._importing:
            personas = await asyncio.to_thread(persona_document.read, request.document, self._check)

        def answer(stored: Sequence[Stored], replaced: int) -> bytes:
            return pb.ImportDnsPersonasResponse(
                dns_personas=[persona_to_pb(persona) for persona in stored],
                replaced_count=replaced,
            ).SerializeToString()

        response = await self._personas.import_all(
            [_new(persona) for persona in personas],
            answer,
            replace=request.replace,
            validate_only=request.validate_only,
        )
        return pb.ImportDnsPersonasResponse.FromString(response)

    async def _settings(
        self, persona_id: str, given: dns_settings_pb2.DnsSettings
    ) -> dns_settings_pb2.DnsSettings:
        """The settings of the persona, where a request names one. Raises DnsPersonaNotFound."""
        if not persona_id:
            return given
        persona = await self._personas.get(UUID(persona_id))
        return dns_settings_pb2.DnsSettings.FromString(persona.body)

    def _check(self, persona: DnsPersona, path: str) -> Iterator[FieldViolation]:
        named = set()
        for each in self._contract.violations(persona):
            named.add(f"{path}.{each.field}")
            yield FieldViolation(f"{path}.{each.field}", each.description)
        for each in check_persona(persona, path):
            if each.field not in named:
                yield each


def check_persona(persona: DnsPersona, path: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a persona that stands at `path`."""
    if not persona.name.strip():
        yield FieldViolation(f"{path}.name", "is blank")
    for field in ("name", "description"):
        if "\0" in getattr(persona, field):
            yield FieldViolation(f"{path}.{field}", "has a NUL character, which no table takes")
    yield from check_settings(persona.settings, f"{path}.settings")


def check_choice(
    request: pb.CheckNamesRequest | pb.TestDnsPersonaRequest | pb.ValidateStart,
    path: str = "",
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a request that takes a persona or settings."""
    if request.dns_persona_id and request.HasField("settings"):
        yield FieldViolation(f"{path}dns_persona_id", "does not go with settings")
    yield from check_settings(request.settings, f"{path}settings")


def passed(test: pb.ResolverTest) -> bool:
    """Whether the resolver would be admitted."""
    return test.report.state == resolver_pb2.RESOLVER_STATE_ADMITTED


def persona_to_pb(persona: Stored) -> DnsPersona:
    message = DnsPersona(
        dns_persona_id=str(persona.id),
        name=persona.name,
        description=persona.description,
        settings=dns_settings_pb2.DnsSettings.FromString(persona.body),
        etag=persona.etag,
    )
    message.create_time.FromDatetime(persona.create_time)
    message.update_time.FromDatetime(persona.update_time)
    return message


def _new(persona: DnsPersona) -> New:
    return New(
        persona.name,
        persona.description,
        persona.settings.SerializeToString(deterministic=True),
    )


def _check_create(request: pb.CreateDnsPersonaRequest) -> Iterator[FieldViolation]:
    if request.HasField("dns_persona"):
        yield from check_persona(request.dns_persona, "dns_persona")


def _check_update(request: pb.UpdateDnsPersonaRequest) -> Iterator[FieldViolation]:
    if not request.HasField("dns_persona"):
        return
    try:
        UUID(request.dns_persona.dns_persona_id)
    except ValueError:
        yield FieldViolation("dns_persona.dns_persona_id", "is no UUID")
    yield from check_persona(request.dns_persona, "dns_persona")


def _check_test(request: pb.TestDnsPersonaRequest) -> Iterator[FieldViolation]:
    yield from check_choice(request)
    for index, name in enumerate(request.names[:_MAX_NAMES]):
        try:
            normalise(name)
        except NotADomainName as problem:
            yield FieldViolation(f"names[{index}]", str(problem))


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    pb.CreateDnsPersonaRequest: _check_create,
    pb.UpdateDnsPersonaRequest: _check_update,
    pb.TestDnsPersonaRequest: _check_test,
}
