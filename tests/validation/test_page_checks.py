"""Pages for somebody who waits, through a real port and to the sandbox's web."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any

import grpc
import pytest

from domainflow.validation.v1 import (
    dns_pb2,
    dns_settings_pb2,
    http_pb2,
    http_persona_pb2,
    http_settings_pb2,
    keyword_pb2,
    page_pb2,
    scoring_pb2,
    suppression_pb2,
)
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.validation_service_pb2_grpc import (
    ValidationServiceStub,
    add_ValidationServiceServicer_to_server,
)
from services.chassis.postgres import Pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Behaviour, Mix, truth
from services.sandbox.web_server import NETWORK, SandboxWeb, SandboxWebSettings
from services.sandbox.web_truth import Fetching, Web
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.addresses import AddressPolicy
from services.validation.page_check import TIME_LIMIT, PageChecks
from services.validation.persona_store import Personas
from services.validation.plans import plan_of_settings
from services.validation.service import RULES, ValidationService
from services.validation.store import Store
from tests.refusals import refused
from tests.validation.fetching import (
    EVERY_KIND,
    NAMES_MIX,
    http_configuration,
    names_of,
    seconds,
    truth_of,
)

OK = http_pb2.HTTP_VERDICT_OK
TIMEOUT = http_pb2.HTTP_VERDICT_TIMEOUT
EXCLUDED = http_pb2.HTTP_VERDICT_EXCLUDED
NEVER_AGAIN = Fetching(retry=False)


@pytest.fixture
async def web() -> AsyncIterator[SandboxWeb]:
    async with SandboxWeb(SandboxWebSettings(mix=NAMES_MIX, web=EVERY_KIND)) as server:
        yield server


@pytest.fixture
async def dns() -> AsyncIterator[dns_settings_pb2.DnsSettings]:
    async with SandboxDns(SandboxDnsSettings(mix=NAMES_MIX)) as server:
        resolver = dns_settings_pb2.DnsResolver(address="{}:{}".format(*server.address))
        settings = dns_settings_pb2.DnsSettings(resolvers=[resolver])
        settings.timeout.CopyFrom(seconds(0.3))
        yield settings


@contextlib.asynccontextmanager
async def serving(
    pool: Pool,
    store: Store,
    engines: Engines,
    dns: dns_settings_pb2.DnsSettings,
    limit: float = TIME_LIMIT,
) -> AsyncIterator[ValidationServiceStub]:
    guard = CallGuard(rules=RULES, max_calls=10, max_streams=10)
    server = grpc.aio.server(interceptors=[guard])
    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        service = ValidationService(
            store=store,
            engines=engines,
            personas=Personas(pool),
            seal=Seal([b"k" * 32]),
            policy=AddressPolicy.parse(allowed=[NETWORK]),
            page_checks=PageChecks(
                fetchers, store.suppressions, limit=limit, dns=lambda: plan_of_settings(dns)
            ),
        )
        add_ValidationServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ValidationServiceStub(channel)
        await server.stop(0)


@pytest.fixture
async def stub(
    pool: Pool, store: Store, engines: Engines, dns: dns_settings_pb2.DnsSettings
) -> AsyncIterator[ValidationServiceStub]:
    async with serving(pool, store, engines, dns) as stub:
        yield stub


def asking(web: SandboxWeb, *, keywords: Iterable[str] = (), **others: object) -> pb.HttpCheck:
    asked = http_configuration(web, keywords=list(keywords), **others)
    return pb.HttpCheck(settings=asked.settings, keywords=asked.keywords)


async def test_every_kind_of_site_comes_to_the_verdict_it_first_deserves(
    stub: ValidationServiceStub, web: SandboxWeb, dns: dns_settings_pb2.DnsSettings
) -> None:
    names = [f"{'a' * 30}.com", *names_of(web.world, 60)]

    request = pb.CheckNamesRequest(names=names, settings=dns, http=asking(web))
    absent, *found = (await stub.CheckNames(request)).checked_names

    assert not absent.HasField("http")
    assert [it.name for it in found] == names[1:]
    wrong = {
        it.name: (it.http.verdict, it.http.evidence.reason)
        for it in found
        if truth_of(web.world, it.name).verdict(NEVER_AGAIN) != it.http.verdict
    }
    assert wrong == {}
    pages = [it for it in found if it.http.verdict == OK]
    assert len(pages) > 15
    assert all(it.HasField("page") == (it.http.verdict == OK) for it in found)
    for each in pages:
        known = truth_of(web.world, each.name)
        assert page_pb2.PageKind.Name(each.page.kind) == f"PAGE_KIND_{known.kind}", each.name
        if not each.http.evidence.redirects:
            assert each.http.evidence.address in known.addresses


async def test_a_stream_brings_each_page_once_and_counts_its_verdicts(
    stub: ValidationServiceStub, web: SandboxWeb, dns: dns_settings_pb2.DnsSettings
) -> None:
    fast = [Web.PAGE, Web.PARKED, Web.NOT_FOUND, Web.GONE, Web.FORBIDDEN, Web.LOGIN]
    names = [f"{'b' * 30}.com", *names_of(web.world, 600, *fast)]
    patient = {"connect_timeout": seconds(20), "total_timeout": seconds(60)}
    start = pb.ValidateStart(settings=dns, http=asking(web, window=32, **patient))
    requests = [pb.ValidateDomainsRequest(start=start)]
    for at in range(0, len(names), 200):
        batch = pb.NameBatch(names=[*names[at : at + 200], "no name"])
        requests.append(pb.ValidateDomainsRequest(batch=batch))

    *results, last = [it async for it in stub.ValidateDomains(iter(requests))]

    told = [
        (result.results.batch_number, it.index, it)
        for result in results
        for it in result.results.names
    ]
    assert len({(number, index) for number, index, _ in told}) == len(told) == len(names) + 4
    found = {it.name: it for _, _, it in told if not it.rejected}
    assert sorted(found) == sorted(names)
    assert not found[names[0]].HasField("http")
    counted = Counter[int]()
    for name in names[1:]:
        assert found[name].http.verdict == truth_of(web.world, name).verdict(NEVER_AGAIN)
        counted[found[name].http.verdict] += 1
    assert {it.verdict: it.count for it in last.summary.http_verdict_counts} == counted
    assert last.summary.rejected_count == 4


async def test_keywords_are_those_of_stored_sets_words_and_rules_together(
    stub: ValidationServiceStub, web: SandboxWeb, dns: dns_settings_pb2.DnsSettings
) -> None:
    name, page = next(
        (name, page)
        for name in names_of(web.world, 200, Web.PAGE)
        if len(page := truth_of(web.world, name).page.all_hits) > 1
    )
    one, other = list(page)[:2]
    made = await stub.CreateKeywordSet(
        keyword_pb2.CreateKeywordSetRequest(
            keyword_set=keyword_pb2.KeywordSet(
                name="shops", rules=[keyword_pb2.KeywordRule(name="first", pattern=one)]
            )
        )
    )
    check = asking(web, keywords=[other, "not on any page at all"])
    check.keywords.keyword_set_ids.append(made.keyword_set.keyword_set_id)
    check.keywords.rules.add(name="nothing", pattern="no [a-z]+ either", kind=2)

    request = pb.CheckNamesRequest(names=[name], settings=dns, http=check)
    (found,) = (await stub.CheckNames(request)).checked_names

    hits = {it.rule: it.hit_count + it.title_hit_count for it in found.page.rule_hits}
    assert hits == {"first": page[one], other: page[other]}
    assert found.page.keyword_match


async def test_a_page_that_is_not_there_in_time_is_a_timeout(
    pool: Pool,
    store: Store,
    engines: Engines,
    web: SandboxWeb,
    dns: dns_settings_pb2.DnsSettings,
) -> None:
    slow, fast = names_of(web.world, 2, Web.MUTE), names_of(web.world, 1, Web.PAGE)
    check = asking(web, first_byte_timeout=seconds(50), total_timeout=seconds(60))
    start = pb.ValidateStart(settings=dns, http=check)
    batch = pb.NameBatch(names=slow + fast)
    requests = [pb.ValidateDomainsRequest(start=start), pb.ValidateDomainsRequest(batch=batch)]
    async with serving(pool, store, engines, dns, limit=1.5) as stub:
        request = pb.CheckNamesRequest(names=slow + fast, settings=dns, http=check)
        *late, there = (await stub.CheckNames(request)).checked_names
        *results, _ = [it async for it in stub.ValidateDomains(iter(requests))]

    assert [it.http.verdict for it in late] == [TIMEOUT, TIMEOUT]
    assert "not there within 1.5 s" in late[0].http.evidence.reason
    assert there.http.verdict == OK
    streamed = {it.name: it.http.verdict for result in results for it in result.results.names}
    assert streamed == {**dict.fromkeys(slow, TIMEOUT), fast[0]: OK}


async def test_a_name_that_dns_is_mute_about_is_told_when_the_call_has_to_end(
    pool: Pool,
    store: Store,
    engines: Engines,
    web: SandboxWeb,
) -> None:
    mute = Mix(nxdomain=0, mute=1, slow=0, servfail=0)
    async with SandboxDns(SandboxDnsSettings(mix=mute)) as server:
        resolver = dns_settings_pb2.DnsResolver(address="{}:{}".format(*server.address))
        dns = dns_settings_pb2.DnsSettings(resolvers=[resolver], attempt_limit=20)
        dns.timeout.CopyFrom(seconds(30))
        silent = next(
            name
            for name in (f"silent{number}.com" for number in range(10_000))
            if truth(name, server.settings.seed, mute).behaviour is Behaviour.MUTE
        )
        async with serving(pool, store, engines, dns, limit=2) as stub:
            request = pb.CheckNamesRequest(names=[silent], settings=dns, http=asking(web))
            (late,) = (await stub.CheckNames(request)).checked_names

    assert late.name == silent
    assert late.dns.verdict == dns_pb2.DNS_VERDICT_TIMEOUT
    assert "had to end" in late.dns.evidence.reason
    assert not late.HasField("http")


async def test_who_does_not_want_to_be_asked_is_not(
    stub: ValidationServiceStub, web: SandboxWeb, dns: dns_settings_pb2.DnsSettings
) -> None:
    (name,) = names_of(web.world, 1, Web.PAGE)
    entry = suppression_pb2.Suppression(
        entry=name, scope=suppression_pb2.SUPPRESSION_SCOPE_FETCH, reason="asked us to"
    )
    await stub.AddSuppressions(suppression_pb2.AddSuppressionsRequest(suppressions=[entry]))
    check = asking(web)
    start = pb.ValidateStart(settings=dns, http=check)
    batch = pb.NameBatch(names=[name])
    requests = [pb.ValidateDomainsRequest(start=start), pb.ValidateDomainsRequest(batch=batch)]
    url = f"http://{name}:{web.http_port}/"
    words = keyword_pb2.KeywordChoice(keywords=["shop"])

    checked = await stub.CheckNames(pb.CheckNamesRequest(names=[name], settings=dns, http=check))
    tested = await stub.TestHttpPersona(
        http_persona_pb2.TestHttpPersonaRequest(names=[name], settings=check.settings)
    )
    extracted = await stub.ExtractKeywords(
        pb.ExtractKeywordsRequest(urls=[url], settings=check.settings, keywords=words)
    )
    result, _ = [it async for it in stub.ValidateDomains(iter(requests))]

    for it in (
        checked.checked_names[0].http,
        tested.tested_pages[0].http,
        extracted.pages[0].http,
        result.results.names[0].http,
    ):
        assert it.verdict == EXCLUDED
        assert name in it.evidence.reason
    assert web.stats.requests == 0


async def test_urls_are_fetched_scored_and_searched_in_their_order(
    stub: ValidationServiceStub, web: SandboxWeb
) -> None:
    names = names_of(web.world, 3, Web.PAGE)
    gone = names_of(web.world, 1, Web.GONE)
    metadata = f"http://169.254.169.254:{web.http_port}/latest/meta-data/"
    urls = [f"http://{name}:{web.http_port}/" for name in (*names, *gone)]
    urls = [*urls, metadata, f"https://{names[0]}:{web.https_port}/"]
    words = {word for name in names for word in truth_of(web.world, name).page.all_hits}
    choice = keyword_pb2.KeywordChoice(keywords=sorted(words) or ["shop"])
    persona = http_persona_pb2.HttpPersona(name="mine", settings=asking(web).settings)
    stored = await stub.CreateHttpPersona(
        http_persona_pb2.CreateHttpPersonaRequest(http_persona=persona)
    )
    profile = await stub.CreateScoringProfile(
        scoring_pb2.CreateScoringProfileRequest(
            scoring_profile=scoring_pb2.ScoringProfile(
                name="clean",
                settings=scoring_pb2.ScoringSettings(
                    weights=scoring_pb2.ScoringWeights(non_parked=1)
                ),
            )
        )
    )
    profile_id = profile.scoring_profile.scoring_profile_id

    answer = await stub.ExtractKeywords(
        pb.ExtractKeywordsRequest(
            urls=urls,
            keywords=choice,
            http_persona_id=stored.http_persona.http_persona_id,
            scoring_profile_id=profile_id,
        )
    )

    assert [it.url for it in answer.pages] == urls
    refused_ = http_pb2.HTTP_VERDICT_ADDRESS_NOT_ALLOWED
    assert [it.http.verdict for it in answer.pages] == [
        *(OK, OK, OK),
        *(http_pb2.HTTP_VERDICT_GONE, refused_, OK),
    ]
    for name, it in zip((*names, "", "", names[0]), answer.pages, strict=True):
        assert it.HasField("page") == it.HasField("breakdown") == (it.http.verdict == OK)
        if name:
            counts = truth_of(web.world, name).page.all_hits
            hits = {each.rule: each.hit_count + each.title_hit_count for each in it.page.rule_hits}
            assert hits == counts
            assert it.breakdown.score == 1
            assert it.breakdown.scoring_profile_id == profile_id
            assert it.breakdown.version == 1
    assert answer.pages[-1].http.evidence.tls.version.startswith("TLS")


async def test_what_is_wrong_is_named_by_its_field(
    stub: ValidationServiceStub, web: SandboxWeb, dns: dns_settings_pb2.DnsSettings
) -> None:
    settings = asking(web).settings
    words = keyword_pb2.KeywordChoice(keywords=["shop"])
    persona_id = "0190a000-0000-7000-8000-000000000001"
    foreign = http_settings_pb2.HttpSettings(allowed_networks=["10.0.0.0/8"])
    odd = ["ftp://a.com/", "http://a.com/", "http://0x7f.1/", f"http://user@a.com:{web.http_port}"]
    port = f"http://a.com:{web.http_port}/"

    async def fields(call: Awaitable[Any]) -> set[str]:
        refusal = await refused(call)
        assert refusal.reason == "INVALID_FIELDS", refusal
        return refusal.fields

    extract = pb.ExtractKeywordsRequest
    assert await fields(
        stub.ExtractKeywords(extract(urls=odd, keywords=words, settings=settings))
    ) == {"urls[0]", "urls[2]"}
    assert await fields(
        stub.ExtractKeywords(extract(urls=[odd[1], port], keywords=words, settings=settings))
    ) == {"urls[0]"}
    assert await fields(
        stub.ExtractKeywords(
            extract(urls=[port], keywords=words, settings=settings, http_persona_id=persona_id)
        )
    ) == {"http_persona_id"}
    assert await fields(
        stub.ExtractKeywords(
            extract(urls=[port], settings=settings, keywords=keyword_pb2.KeywordChoice())
        )
    ) == {"keywords"}
    check = pb.HttpCheck(settings=foreign)
    names = [f"n{number}.com" for number in range(101)]
    assert await fields(stub.CheckNames(pb.CheckNamesRequest(names=names[:1], http=check))) == {
        "http.settings.allowed_networks[0]"
    }
    assert await fields(
        stub.CheckNames(pb.CheckNamesRequest(names=names, http=pb.HttpCheck()))
    ) == {"names"}
    request = http_persona_pb2.TestHttpPersonaRequest(names=["a.com", "no name"])
    assert await fields(stub.TestHttpPersona(request)) == {"names[1]"}
    missing = pb.HttpCheck(http_persona_id=persona_id)
    refusal = await refused(stub.CheckNames(pb.CheckNamesRequest(names=["a.com"], http=missing)))
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


async def test_a_persona_is_tried_on_names_without_keeping_anything(
    stub: ValidationServiceStub, web: SandboxWeb
) -> None:
    names = names_of(web.world, 6, Web.PAGE, Web.NOT_FOUND, Web.MOVED_TO_WWW, Web.SELF_SIGNED)

    answer = await stub.TestHttpPersona(
        http_persona_pb2.TestHttpPersonaRequest(names=names, settings=asking(web).settings)
    )

    assert [it.name for it in answer.tested_pages] == names
    for it in answer.tested_pages:
        assert it.http.verdict == truth_of(web.world, it.name).verdict(NEVER_AGAIN)
        assert it.http.evidence.trials
