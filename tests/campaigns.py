"""Campaigns for tests, made by the real store from the real configuration messages."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import event_pb2
from services.campaign.campaign import Action, Campaign, Mode, Phase
from services.campaign.ingest import digest
from services.campaign.ledger import ChunkKey
from services.campaign.rows import RunningPhase
from services.campaign.store import NewCampaign, RequestKey, Store
from services.chassis.postgres import Pool

# What is stored with a claim; nobody's clock is compared with it.
LEASE = timedelta(seconds=15)
GENERATION, DNS = Phase.DOMAIN_GENERATION, Phase.DNS_VALIDATION


def from_pattern(
    *,
    length: int = 2,
    characters: str = "abc",
    first_offset: int | None = None,
    name_count: int = 0,
    overlap_allowed: bool = True,
    dns: pb.DnsConfiguration | None = None,
) -> pb.CampaignConfiguration:
    """Names of `length` variable characters, then x.com; the same ones each time unless told."""
    source = pb.PatternSource(
        type=pb.PATTERN_TYPE_PREFIX,
        prefix_length=length,
        character_set=characters,
        constant="x",
        tlds=[".com"],
        first_offset=first_offset,
        name_count=name_count,
        overlap_allowed=overlap_allowed,
    )
    return pb.CampaignConfiguration(
        generation=pb.GenerationConfiguration(pattern=source), dns=dns or pb.DnsConfiguration()
    )


def from_upload(dns: pb.DnsConfiguration | None = None) -> pb.CampaignConfiguration:
    return pb.CampaignConfiguration(
        generation=pb.GenerationConfiguration(upload=pb.UploadSource()),
        dns=dns or pb.DnsConfiguration(),
    )


def new_campaign(
    configuration: pb.CampaignConfiguration | None = None,
    *,
    mode: Mode = Mode.STEP_BY_STEP,
    phases: Sequence[Phase] = (GENERATION, DNS),
) -> NewCampaign:
    return NewCampaign(
        id=uuid4(),
        name="test",
        mode=mode,
        phases=dict.fromkeys(phases, True),
        configuration=(configuration or from_pattern()).SerializeToString(),
    )


def answer(campaign: Campaign) -> bytes:
    """What a caller would be told: enough to see whether two callers were told the same."""
    return f"{campaign.id} {campaign.current.status} {campaign.revision}".encode()


async def create(store: Store, new: NewCampaign | None = None) -> Campaign:
    new = new or new_campaign()
    await store.create(new, None, answer)
    return await store.get(new.id)


async def act(
    store: Store,
    campaign: Campaign | UUID,
    action: Action,
    *,
    phase: Phase | None = None,
    key: RequestKey | None = None,
) -> bytes:
    campaign_id = campaign if isinstance(campaign, UUID) else campaign.id
    return await store.transition(
        campaign_id, action, phase=phase, reason="", key=key, answer=answer
    )


async def generating(store: Store, new: NewCampaign | None = None) -> RunningPhase:
    """A new campaign whose generation runs and has made nothing yet."""
    campaign = await create(store, new)
    await act(store, campaign, Action.START)
    return await store.names.running_phase(campaign.id, GENERATION)


async def validating(
    store: Store,
    names: Sequence[str],
    dns: pb.DnsConfiguration | None = None,
    *,
    chunk_size: int = 100,
) -> RunningPhase:
    """A campaign with these names, whose DNS validation runs and is planned."""
    running = await generating(store, new_campaign(from_upload(dns), mode=Mode.FULL_SEQUENCE))
    assert await store.names.append_names(running, 0, names, digest(names))
    await store.names.announce(running, len(names), planned=True)
    assert await store.ledger.complete(running)
    running = await store.names.running_phase(running.campaign_id, DNS)
    await store.ledger.plan(running, len(names), chunk_size)
    return await store.names.running_phase(running.campaign_id, DNS)


async def hand_out(
    store: Store, phases: Sequence[RunningPhase], share: int = 1000
) -> list[ChunkKey]:
    """Mark up to `share` ready chunks of each phase as queued, in turns, as a dispatcher does."""
    offers = await store.ledger.offers(phases, share)
    turns = [each[i].key for i in range(share) for each in offers if i < len(each)]
    return await store.ledger.queue(turns, LEASE)


async def claim(pool: Pool, key: ChunkKey, worker: str = "w") -> int | None:
    """Take a chunk as a worker does; returns the attempt, None when it is not to be had."""
    return await pool.fetchval(
        "SELECT attempt FROM claim_chunk($1, $2::smallint, $3, $4, $5, $6)",
        key.campaign_no,
        key.phase,
        key.run,
        key.first_position,
        worker,
        LEASE,
    )


async def settle(pool: Pool, key: ChunkKey, attempt: int, resolved: int) -> bool:
    """What a worker's transaction does to the ledger, without its rows."""
    async with pool.acquire() as connection, connection.transaction():
        settled = await connection.fetchrow(
            "SELECT 1 FROM settle_chunk($1, $2::smallint, $3, $4, $5, ARRAY[$6::int], $7)",
            key.campaign_no,
            key.phase,
            key.run,
            key.first_position,
            attempt,
            resolved,
            b"digest",
        )
        if settled is None:
            return False
        event = event_pb2.Event(chunk_settled=event_pb2.ChunkSettled(name_count=resolved))
        await connection.execute(
            "SELECT append_event($1, $2)", key.campaign_no, event.SerializeToString()
        )
        return True


async def history(store: Store, campaign_no: int) -> list[event_pb2.Event]:
    """Every event of the campaign; asserts that its revisions are 1, 2, 3..."""
    stored = await store.history.events(campaign_no, 0, 100_000)
    assert [event.revision for event in stored] == list(range(1, len(stored) + 1))
    return [event_pb2.Event.FromString(event.body) for event in stored]


async def kinds(store: Store, campaign_no: int) -> list[str]:
    """The kinds of the campaign's events in order; a phase's change says where it led."""
    told = []
    for event in await history(store, campaign_no):
        kind = event.WhichOneof("kind") or ""
        if kind == "phase_changed":
            status = pb.PhaseStatus.Name(event.phase_changed.to_status)
            kind = f"{event.phase_changed.phase} {status.removeprefix('PHASE_STATUS_')}"
        told.append(kind)
    return told
