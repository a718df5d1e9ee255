"""ValidationService: check now, for somebody who waits."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

from domainflow.validation.v1 import validation_service_pb2 as pb
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.endpoint import BadEndpoint, parse_endpoint
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.seal import Seal
from services.chassis.server import Rules, ThoroughRules
from services.validation.check_stream import CheckStream
from services.validation.dns.plan import Plan
from services.validation.dns.verdict import Verdict
from services.validation.engines import Engines
from services.validation.evidence import outcome_to_pb
from services.validation.http.addresses import PUBLIC_ONLY, AddressPolicy
from services.validation.http_persona_service import RULES as HTTP_PERSONA_RULES
from services.validation.http_persona_service import HttpPersonaService, http_persona_calls
from services.validation.keyword_library import KeywordLibrary
from services.validation.keyword_service import RULES as KEYWORD_RULES
from services.validation.keyword_service import KeywordService, keyword_set_calls
from services.validation.page_answers import fill, fit
from services.validation.page_check import ONE_SOCKET, PageChecks, gathered, too_late
from services.validation.page_check_service import RULES as PAGE_CHECK_RULES
from services.validation.page_check_service import PageCheckService, check_page_choice
from services.validation.persona_service import RULES as PERSONA_RULES
from services.validation.persona_service import PersonaService, check_choice
from services.validation.persona_store import Personas
from services.validation.plans import plan_of_settings, resolvers_of
from services.validation.proxy_service import RULES as PROXY_RULES
from services.validation.proxy_service import ProxyService, proxy_pool_calls
from services.validation.resolver_service import ResolverService
from services.validation.score_service import RULES as SCORE_RULES
from services.validation.score_service import ScoreService
from services.validation.scoring_service import RULES as SCORING_RULES
from services.validation.scoring_service import ScoringService, scoring_profile_calls
from services.validation.store import Store
from services.validation.suppression_service import RULES as SUPPRESSION_RULES
from services.validation.suppression_service import SuppressionService

Context = Any
MAX_NAMES = 1000
# When their pages are asked for too.
MAX_NAMES_WITH_PAGES = 100
MAX_RESOLVERS = 100


class ValidationService(
    PersonaService,
    HttpPersonaService,
    KeywordService,
    ScoringService,
    ScoreService,
    SuppressionService,
    PageCheckService,
    ProxyService,
    ResolverService,
):
    """How names are checked. See validation_service.proto for every RPC's contract."""

    def __init__(
        self,
        *,
        store: Store,
        engines: Engines,
        personas: Personas,
        seal: Seal,
        policy: AddressPolicy = PUBLIC_ONLY,
        page_checks: PageChecks | None = None,
    ) -> None:
        """`policy`: private networks that settings of HTTP may name and proxies may be in, and
        denied ones. `page_checks`: None refuses the calls that look at pages."""
        super().__init__(personas=personas, seal=seal)
        self._networks = policy.allowed
        self._policy = policy
        self._page_checks = page_checks
        self._http_personas = http_persona_calls(store.http_personas, seal, policy.allowed)
        self._keyword_sets = keyword_set_calls(store.keyword_sets, seal)
        self._keywords = KeywordLibrary(store.keyword_sets)
        self._scoring_profiles = scoring_profile_calls(store.scoring_profiles, seal)
        self._profiles = store.scoring_profiles
        self._analyses = store.analyses
        self._suppressions = store.suppressions
        self._seal = seal
        self._proxies = store.proxies
        self._proxy_pools = proxy_pool_calls(store.proxy_pools, seal)
        self._store = store
        self._resolvers = store.resolvers
        self._engines = engines
        # For the guard of the service's calls.
        self.thorough_rules: ThoroughRules = {
            **self._http_personas.thorough_rules,
            **self._keyword_sets.thorough_rules,
            **self._suppression_rules(),
        }

    async def CheckNames(
        self, request: pb.CheckNamesRequest, context: Context
    ) -> pb.CheckNamesResponse:
        names = [normalise(name) for name in request.names]
        if request.resolvers:
            plan = Plan(resolvers_of(request.resolvers), ONE_SOCKET)
        else:
            settings = await self._settings(request.dns_persona_id, request.settings)
            plan = plan_of_settings(settings, ONE_SOCKET)
        if request.HasField("http"):
            return await self._check_with_pages(request.http, names, plan)
        async with self._engines.use(plan) as examiner:
            outcomes = await examiner.examine(names)
        now = time.time_ns()
        return pb.CheckNamesResponse(
            checked_names=[
                pb.CheckedName(name=outcome.name, dns=outcome_to_pb(outcome, now))
                for outcome in outcomes
            ]
        )

    async def _check_with_pages(
        self, http: pb.HttpCheck, names: Sequence[str], plan: Plan
    ) -> pb.CheckNamesResponse:
        checks = self._pages()
        end = checks.end()
        pages = await self._page_plan(http, "http.", plan)
        async with self._engines.use(plan) as examiner, checks.reading(pages) as reading:
            excluded = await reading.excluded(set(names))

            async def checked(name: str) -> pb.CheckedName:
                try:
                    async with asyncio.timeout_at(end):
                        (outcome,) = await examiner.examine([name])
                except TimeoutError:
                    outcome = too_late(name)
                made = pb.CheckedName(name=name, dns=outcome_to_pb(outcome, time.time_ns()))
                if outcome.verdict is Verdict.RESOLVED:
                    site = await reading.of_outcome(outcome, excluded.get(name), end)
                    fill(made, site, time.time_ns())
                return made

            # Each by itself: a name that DNS is slow about leaves the others their time.
            found = await gathered([checked(name) for name in names])
        response = pb.CheckNamesResponse(checked_names=found)
        fit(response, response.checked_names)
        return response

    async def ValidateDomains(
        self, requests: AsyncIterator[pb.ValidateDomainsRequest], context: Context
    ) -> AsyncIterator[pb.ValidateDomainsResponse]:
        first = await anext(requests, pb.ValidateDomainsRequest())
        if first.WhichOneof("kind") != "start":
            problem = "is required: the first message of a stream says how to ask"
            raise InvalidFields([FieldViolation("start", problem)])
        settings = await self._settings(first.start.dns_persona_id, first.start.settings)
        plan = plan_of_settings(settings, ONE_SOCKET)
        async with AsyncExitStack() as stack:
            reading = None
            if first.start.HasField("http"):
                pages = await self._page_plan(first.start.http, "start.http.", plan)
                reading = await stack.enter_async_context(self._pages().reading(pages))
            examiner = await stack.enter_async_context(self._engines.use(plan))
            stream = CheckStream(examiner.examine, reading)
            answers = await stack.enter_async_context(aclosing(stream.answers(requests)))
            async for answer in answers:
                yield answer

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        response = pb.ListWorkersResponse()
        for row in await self._store.pools.workers():
            worker = response.workers.add(
                worker_id=row.worker_id,
                pool=row.pool,
                host=row.host,
                pid=row.pid,
                chunks_in_flight=row.chunks_in_flight,
                settled_count=row.settled_count,
                load=row.load,
            )
            worker.start_time.FromDatetime(row.start_time)
            worker.report_time.FromDatetime(row.report_time)
        return response

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        response = pb.ListPoolsResponse()
        for row in await self._store.pools.pools():
            pool = response.worker_pools.add(
                pool=row.pool,
                host=row.host,
                process_count=row.size.process_count,
                task_limit=row.size.task_limit,
                min_process_count=row.bounds.min_process_count,
                max_process_count=row.bounds.max_process_count,
                reason=row.reason,
            )
            pool.decide_time.FromDatetime(row.decide_time)
        return response


def check_names(request: pb.CheckNamesRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about CheckNames."""
    # The contract's rules speak about the ones beyond.
    for index, name in enumerate(request.names[:MAX_NAMES]):
        try:
            normalise(name)
        except NotADomainName as problem:
            yield FieldViolation(f"names[{index}]", str(problem))
    for index, resolver in enumerate(request.resolvers[:MAX_RESOLVERS]):
        try:
            parse_endpoint(resolver, default_port=53)
        except BadEndpoint as problem:
            yield FieldViolation(f"resolvers[{index}]", str(problem))
    if request.resolvers and (request.dns_persona_id or request.HasField("settings")):
        yield FieldViolation("resolvers", "do not go with a persona or settings")
    yield from check_choice(request)
    if request.HasField("http"):
        yield from check_page_choice(request.http, "http.")
        if len(request.names) > MAX_NAMES_WITH_PAGES:
            description = f"are {len(request.names):,}; with http {MAX_NAMES_WITH_PAGES} at most"
            yield FieldViolation("names", description)


def check_validate(request: pb.ValidateDomainsRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a message of a stream of names."""
    if request.HasField("start"):
        yield from check_choice(request.start, "start.")
        if request.start.HasField("http"):
            yield from check_page_choice(request.start.http, "start.http.")


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    pb.CheckNamesRequest: check_names,
    pb.ValidateDomainsRequest: check_validate,
    **PAGE_CHECK_RULES,
    **PERSONA_RULES,
    **HTTP_PERSONA_RULES,
    **KEYWORD_RULES,
    **SCORING_RULES,
    **SCORE_RULES,
    **SUPPRESSION_RULES,
    **PROXY_RULES,
}
