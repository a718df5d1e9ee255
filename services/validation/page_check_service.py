"""The part of ValidationService that looks at pages for somebody who waits."""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from domainflow.validation.v1 import http_settings_pb2, scoring_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from domainflow.validation.v1.http_persona_pb2 import (
    TestedPage,
    TestHttpPersonaRequest,
    TestHttpPersonaResponse,
)
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.errors import FieldViolation, InvalidFields, PartUnavailable
from services.chassis.http_settings import HttpSettings, check_http_settings
from services.chassis.matching.choice import check_choice as check_keywords
from services.chassis.server import Rules
from services.validation.content.scoring import DEFAULT_PROFILE, ScoringProfile, explain
from services.validation.dns.plan import Plan
from services.validation.http import urls
from services.validation.http.urls import BadUrl, Target
from services.validation.http_plans import CrawlPolicy, HttpPlan
from services.validation.keyword_library import KeywordLibrary
from services.validation.named_calls import NamedCalls
from services.validation.page_answers import fill, fit
from services.validation.page_check import PageChecks, PagePlan, gathered
from services.validation.score_evidence import breakdown_to_pb
from services.validation.scoring_plans import scoring_profile_of
from services.validation.site_evidence import http_to_pb

_MAX_URLS = 100
_MAX_TESTED = 10

Context = Any


class PageCheckService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    # None: pages are asked for by other processes only.
    _page_checks: PageChecks | None
    _keywords: KeywordLibrary
    _scoring_profiles: NamedCalls[scoring_pb2.ScoringProfile]

    @abstractmethod
    async def _http_plan(
        self, persona_id: str, given: http_settings_pb2.HttpSettings, path: str = "settings"
    ) -> HttpPlan:
        """See HttpPersonaService."""

    async def _page_plan(self, check: pb.HttpCheck, path: str, dns: Plan) -> PagePlan:
        """What a check that stands at `path`, which is empty or ends in a dot, means now. Raises
        InvalidFields, ResourceNotFound."""
        http = await self._http_plan(check.http_persona_id, check.settings, f"{path}settings")
        keywords = None
        if check.HasField("keywords"):
            keywords = await self._keywords.of_choice(check.keywords, f"{path}keywords")
        return PagePlan(http, dns, keywords or None)

    def _pages(self) -> PageChecks:
        if self._page_checks is None:
            raise PartUnavailable("this process asks for no pages")
        return self._page_checks

    async def ExtractKeywords(
        self, request: pb.ExtractKeywordsRequest, context: Context
    ) -> pb.ExtractKeywordsResponse:
        checks = self._pages()
        end = checks.end()
        check = pb.HttpCheck(http_persona_id=request.http_persona_id, keywords=request.keywords)
        if request.HasField("settings"):
            check.settings.CopyFrom(request.settings)
        plan = await self._page_plan(check, "", checks.dns())
        targets = list(_targets(request.urls, plan.http.settings))
        profile, profile_id, version = await self._profile(request.scoring_profile_id)
        async with checks.reading(plan) as reading:
            excluded = await reading.excluded({it.host for it in targets if not it.literal})
            sites = await gathered(
                [reading.of_url(it.text, it.host, excluded.get(it.host), end) for it in targets]
            )
        now = time.time_ns()
        response = pb.ExtractKeywordsResponse()
        for url, site in zip(request.urls, sites, strict=True):
            made = response.pages.add(url=url)
            fill(made, site, now)
            if site.look is None:
                continue
            seconds = now // 1_000_000_000
            breakdown = explain(site.look.features, profile, now=seconds)
            made.breakdown.CopyFrom(
                breakdown_to_pb(
                    breakdown, score_time=seconds, profile_id=profile_id, version=version
                )
            )
        fit(response, response.pages)
        return response

    async def TestHttpPersona(
        self, request: TestHttpPersonaRequest, context: Context
    ) -> TestHttpPersonaResponse:
        checks = self._pages()
        end = checks.end()
        http = await self._http_plan(request.http_persona_id, request.settings)
        # Nothing of further pages is told.
        http = replace(http, crawl_policy=CrawlPolicy.NEVER)
        names = [normalise(name) for name in request.names]
        async with checks.reading(PagePlan(http, checks.dns())) as reading:
            excluded = await reading.excluded(set(names))
            sites = await gathered(
                [reading.of_name(name, excluded.get(name), end) for name in names]
            )
        now = time.time_ns()
        return TestHttpPersonaResponse(
            tested_pages=[
                TestedPage(name=name, http=http_to_pb(site, now))
                for name, site in zip(names, sites, strict=True)
            ]
        )

    async def _profile(self, profile_id: str) -> tuple[ScoringProfile, str, int]:
        """The profile that scores, its id and version. Raises ResourceNotFound."""
        if not profile_id:
            return DEFAULT_PROFILE, "", 0
        stored = await self._scoring_profiles.store.get(UUID(profile_id))
        settings = scoring_pb2.ScoringSettings.FromString(stored.body)
        return scoring_profile_of(settings), str(stored.id), stored.version


def check_page_choice(
    request: pb.HttpCheck | pb.ExtractKeywordsRequest | TestHttpPersonaRequest, path: str = ""
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a request that takes an HTTP persona or settings,
    and stands at `path`, which is empty or ends in a dot."""
    if request.http_persona_id and request.HasField("settings"):
        yield FieldViolation(f"{path}http_persona_id", "does not go with settings")
    yield from check_http_settings(request.settings, f"{path}settings")
    if not isinstance(request, TestHttpPersonaRequest):
        needed = isinstance(request, pb.ExtractKeywordsRequest)
        yield from check_keywords(request.keywords, f"{path}keywords", needed=needed)


def _targets(given: Sequence[str], settings: HttpSettings) -> Iterator[Target]:
    """What each URL leads to. Raises InvalidFields for those at other ports than the settings'."""
    targets = [urls.parse(url) for url in given]
    violations = [
        FieldViolation(
            f"urls[{index}]", f"port {it.port} is none of {_list(sorted(settings.ports))}"
        )
        for index, it in enumerate(targets)
        if it.port not in settings.ports
    ]
    if violations:
        raise InvalidFields(violations)
    yield from targets


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _check_extract(request: pb.ExtractKeywordsRequest) -> Iterator[FieldViolation]:
    yield from check_page_choice(request)
    for index, url in enumerate(request.urls[:_MAX_URLS]):
        try:
            urls.parse(url)
        except BadUrl as problem:
            yield FieldViolation(f"urls[{index}]", str(problem))


def _check_test(request: TestHttpPersonaRequest) -> Iterator[FieldViolation]:
    yield from check_page_choice(request)
    for index, name in enumerate(request.names[:_MAX_TESTED]):
        try:
            normalise(name)
        except NotADomainName as problem:
            yield FieldViolation(f"names[{index}]", str(problem))


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    pb.ExtractKeywordsRequest: _check_extract,
    TestHttpPersonaRequest: _check_test,
}
