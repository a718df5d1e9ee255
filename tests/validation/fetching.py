"""Campaigns whose HTTP phase runs, against the sandbox's web."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.validation.v1 import http_settings_pb2, keyword_pb2
from services.campaign.campaign import Action, Mode, Phase
from services.campaign.ingest import digest
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.http_settings import networks_of
from services.sandbox.truth import Mix
from services.sandbox.web_server import NETWORK, SandboxWeb
from services.sandbox.web_truth import Web, WebMix, WebTruth, WebWorld
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.evidence import evidence_to_bytes
from services.validation.results import chunk_results
from services.validation.store import ChunkKey, Store
from tests.campaigns import DNS, GENERATION, act, generating, hand_out, new_campaign

HTTP = Phase.HTTP_VALIDATION
# That workers of tests were started to allow: the sandbox's.
NETWORKS = networks_of(NETWORK)
# What is not there takes the sandbox's DNS long to say.
NAMES_MIX = Mix(nxdomain=0, mute=0, slow=0, servfail=0)
# Every behaviour as often as every other.
EVERY_KIND = WebMix(**{it.name: 1.0 for it in fields(WebMix)})
LANE = http_settings_pb2.HttpRetryLane
LANES = (
    LANE.REASON_RATE_LIMITED,
    LANE.REASON_TIMEOUT,
    LANE.REASON_TLS,
    LANE.REASON_RESET,
    LANE.REASON_SERVER_ERROR,
)


def seconds(number: float) -> Duration:
    return Duration(seconds=int(number), nanos=int(number % 1 * 1e9))


def http_configuration(
    web: SandboxWeb,
    *,
    keywords: Sequence[str] = (),
    attempts: Mapping["LANE.Reason", int] | None = None,
    **others: object,
) -> pb.HttpConfiguration:
    """Asks the sandbox. `attempts` by lane, one where nothing is said; `others` go into the
    settings."""
    settings = http_settings_pb2.HttpSettings(
        https_ports=[web.https_port],
        http_ports=[web.http_port, web.closed_port],
        connect_timeout=seconds(3),
        first_byte_timeout=seconds(3),
        total_timeout=seconds(6),
        max_retry_after=seconds(10),
        allowed_networks=[NETWORK],
        ca_pem=web.ca,
        crawl=http_settings_pb2.CrawlSettings(policy=http_settings_pb2.CrawlSettings.POLICY_NEVER),
        retry_lanes=[
            LANE(
                reason=reason,
                attempt_limit=(attempts or {}).get(reason, 1),
                delay=seconds(0.1),
                max_delay=seconds(1),
            )
            for reason in LANES
        ],
    )
    given = http_settings_pb2.HttpSettings(**others)
    if given.HasField("crawl"):
        settings.ClearField("crawl")
    settings.MergeFrom(given)
    return pb.HttpConfiguration(
        settings=settings, keywords=keyword_pb2.KeywordChoice(keywords=keywords)
    )


def names_of(world: WebWorld, count: int, *kinds: Web) -> list[str]:
    """So many names, whose web servers behave in one of these ways; without any, in whatever."""
    found = []
    number = 0
    while len(found) < count:
        name = f"site{number}.com"
        number += 1
        known = world.truth(name)
        if known is not None and (not kinds or known.behaviour in kinds):
            found.append(name)
    return found


def truth_of(world: WebWorld, name: str) -> WebTruth:
    known = world.truth(name)
    assert known is not None
    return known


async def fetching(
    campaign_store: CampaignStore,
    store: Store,
    world: WebWorld,
    names: Sequence[str],
    http: pb.HttpConfiguration,
    dns: pb.DnsConfiguration,
    *,
    chunk_size: int = 100,
    resolved: bool = True,
) -> RunningPhase:
    """A campaign of these names whose HTTP phase runs and is planned. DNS resolved those that the
    world has web servers for, or was left out."""
    configuration = pb.CampaignConfiguration(
        generation=pb.GenerationConfiguration(upload=pb.UploadSource()), dns=dns, http=http
    )
    phases = (GENERATION, DNS, HTTP)
    running = await generating(
        campaign_store, new_campaign(configuration, mode=Mode.FULL_SEQUENCE, phases=phases)
    )
    if not resolved:
        await act(campaign_store, running.campaign_id, Action.SKIP, phase=DNS)
    assert await campaign_store.names.append_names(running, 0, names, digest(names))
    await campaign_store.names.announce(running, len(names), planned=True)
    assert await campaign_store.ledger.complete(running)
    if resolved:
        running = await campaign_store.names.running_phase(running.campaign_id, DNS)
        await campaign_store.ledger.plan(running, len(names), 2000)
        for key in await hand_out(campaign_store, [running]):
            await _resolve(store, ChunkKey(*_fields(key)), world)
        assert await campaign_store.ledger.complete(running)
    running = await campaign_store.names.running_phase(running.campaign_id, HTTP)
    await campaign_store.ledger.plan_candidates(running, chunk_size, 1000)
    return await campaign_store.names.running_phase(running.campaign_id, HTTP)


def _fields(key: object) -> tuple[int, int, int, int]:
    return key.campaign_no, int(key.phase), key.run, key.first_position


async def _resolve(store: Store, key: ChunkKey, world: WebWorld) -> None:
    claim = await store.claim(key, "dns")
    assert claim is not None
    outcomes = []
    for name in await store.names(claim):
        known = world.truth(name)
        verdict = Verdict.NXDOMAIN if known is None else Verdict.RESOLVED
        addresses = () if known is None else known.addresses
        outcomes.append(Outcome(name, verdict, 0, addresses, (), 60, "127.0.0.1:53", 1, 1, False))
    results = chunk_results(
        key.campaign_no, key.run, key.first_position, outcomes, 1, evidence_to_bytes
    )
    assert await store.settle(claim, results)
