"""What the system's tests do with campaigns: make, follow through every failure, compare."""

import asyncio
import itertools
import os
import signal
import string
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import grpc

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from domainflow.validation.v1 import dns_pb2, validation_service_pb2_grpc
from services.sandbox.truth import Mix, truth
from services.suite.suite import Suite

SEED = 7
CHARACTERS = string.ascii_lowercase
TLDS = (".com", ".example")
CHUNK_SIZE = 100
# Names per second of a campaign that must not end by itself while parts of the suite die and come
# back: 40,000 names last 40 s, however slowly that goes on a busy machine.
UNHURRIED = 1_000
# What a client meets when a part dies under its call; anything else is an error of the call.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
}
DNS, GENERATION = campaign_pb2.PHASE_DNS_VALIDATION, campaign_pb2.PHASE_DOMAIN_GENERATION
EVERY_COLUMN = (
    query_service_pb2.DOMAIN_COLUMN_NAME,
    query_service_pb2.DOMAIN_COLUMN_POSITION,
    query_service_pb2.DOMAIN_COLUMN_DNS_VERDICT,
    query_service_pb2.DOMAIN_COLUMN_ADDRESSES,
)


@dataclass(frozen=True, slots=True)
class World:
    """A running suite and the ways to reach it."""

    suite: Suite
    folder: Path
    resolver: str
    channel: grpc.aio.Channel
    http: aiohttp.ClientSession

    @property
    def campaigns(self) -> Any:
        return campaign_service_pb2_grpc.CampaignServiceStub(self.channel)

    @property
    def query(self) -> Any:
        return query_service_pb2_grpc.QueryServiceStub(self.channel)

    @property
    def validation(self) -> Any:
        return validation_service_pb2_grpc.ValidationServiceStub(self.channel)

    def kill(self, part: str) -> "Killed":
        """kill -9; await the result to see the supervisor's next one ready."""
        process = self.suite.processes[part]
        assert process.pid is not None
        killed = Killed(self, part, process.pid, process.restarts)
        os.kill(process.pid, signal.SIGKILL)
        return killed

    async def rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.suite.database_url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: object) -> Any:
        return (await self.rows(statement, *arguments))[0][0]


@dataclass(frozen=True, slots=True)
class Killed:
    """A part that was killed."""

    world: World
    part: str
    pid: int
    restarts: int

    async def is_back(self) -> None:
        async with asyncio.timeout(60):
            await self.world.suite.processes[self.part].restarted(self.restarts)


async def insist(method: Any, request: Any) -> Any:
    """The answer to a call that may be repeated, whatever dies under it meanwhile."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + 15
    while True:
        try:
            return await method(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            if error.code() not in PASSING or loop.time() > give_up:
                raise
            await asyncio.sleep(0.05)


def pattern(name_count: int, constant: str) -> campaign_pb2.PatternSource:
    return campaign_pb2.PatternSource(
        type=campaign_pb2.PATTERN_TYPE_PREFIX,
        prefix_length=5,
        character_set=CHARACTERS,
        constant=constant,
        tlds=TLDS,
        name_count=name_count,
        # Campaigns of one constant are compared: they have the same names.
        overlap_allowed=True,
    )


def expected_names(name_count: int, constant: str) -> Iterator[str]:
    """The names of `pattern`, in order, made another way than the suite makes them."""
    letters = itertools.product(CHARACTERS, repeat=5)
    combined = (f"{''.join(p)}{constant}{tld}" for p in letters for tld in TLDS)
    return itertools.islice(combined, name_count)


class Trial:
    """One campaign under test and the watch on it, which survives whatever dies.

    The watch resumes by revision; a gap or a repeat in what it receives fails the test at once.
    """

    def __init__(self, world: World, campaign_id: str, name_count: int, constant: str) -> None:
        self.world = world
        self.campaign_id = campaign_id
        self.name_count = name_count
        self.constant = constant
        self.revision = 0
        self.reconnects = 0
        self.settled: dict[tuple[int, int], int] = {}
        self.retried: list[tuple[int, int]] = []
        self.ending: int | None = None
        self.status: int = 0
        self.progress_count = 0
        self._stream: Any = None

    @classmethod
    async def begin(
        cls,
        world: World,
        name_count: int,
        *,
        dns: bool = True,
        rate: int = 0,
        constant: str | None = None,
    ) -> "Trial":
        """Create and start a campaign of that many names, of which `rate` a second are checked at
        most; 0: as many as can be."""
        constant = constant or f"x{uuid.uuid4().hex[:8]}"
        configuration = campaign_pb2.CampaignConfiguration(
            generation=campaign_pb2.GenerationConfiguration(pattern=pattern(name_count, constant))
        )
        if dns:
            # Small chunks and a small window: the middle is long and has many places to be hit.
            configuration.dns.CopyFrom(
                campaign_pb2.DnsConfiguration(
                    resolvers=[world.resolver], window=150, chunk_size=CHUNK_SIZE
                )
            )
        created = await insist(
            world.campaigns.CreateCampaign,
            campaign_service_pb2.CreateCampaignRequest(
                name=constant,
                mode=campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE,
                configuration=configuration,
                name_rate_limit=rate,
                request_id=str(uuid.uuid4()),
            ),
        )
        trial = cls(world, created.campaign.campaign_id, name_count, constant)
        await trial.do("Start")
        return trial

    @classmethod
    def attached(cls, trial: "Trial") -> "Trial":
        """A new watch on a trial's campaign that sees what happens from now on."""
        again = cls(trial.world, trial.campaign_id, trial.name_count, trial.constant)
        again.revision = trial.revision
        return again

    async def do(self, action: str) -> campaign_pb2.Campaign:
        """Start, Pause, Resume or Cancel."""
        request = getattr(campaign_service_pb2, f"{action}CampaignRequest")(
            campaign_id=self.campaign_id, request_id=str(uuid.uuid4())
        )
        answer = await insist(getattr(self.world.campaigns, f"{action}Campaign"), request)
        campaign: campaign_pb2.Campaign = answer.campaign
        return campaign

    async def hurry(self) -> None:
        """Take the limit of the rate away: what had to happen in the middle has happened."""
        request = campaign_service_pb2.UpdateCampaignRequest(
            campaign_id=self.campaign_id, name_rate_limit=0, request_id=str(uuid.uuid4())
        )
        await insist(self.world.campaigns.UpdateCampaign, request)

    def share(self, phase: int = DNS) -> float:
        """The part of the names that the watch has seen settled."""
        done = sum(count for (each, _), count in self.settled.items() if each == phase)
        return done / self.name_count

    async def until(self, reached: Callable[["Trial"], object], *, within: float = 90) -> None:
        """Follow the campaign until something is true of what was seen."""
        try:
            async with asyncio.timeout(within):
                while not reached(self):
                    assert self.ending is None, "the campaign is over before that came true"
                    await self._next()
        except TimeoutError:
            raise AssertionError(await self._situation()) from None

    async def finished(self) -> None:
        await self.until(lambda trial: trial.ending is not None)
        assert self.ending == campaign_pb2.PHASE_STATUS_COMPLETED

    async def settled_in_tables(self, phase: int = DNS) -> int:
        return int(
            await self.world.value(
                """SELECT coalesce(sum(c.name_count), 0) FROM chunks c
                   JOIN campaigns k ON k.no = c.campaign_no
                   WHERE k.id = $1 AND c.phase = $2 AND c.state = 'done'""",
                uuid.UUID(self.campaign_id),
                phase,
            )
        )

    async def is_in_the_middle(self, phase: int = DNS) -> int:
        """Assert, from the tables, that between 5% and 90% of the names are settled now."""
        settled = await self.settled_in_tables(phase)
        assert 0.05 <= settled / self.name_count <= 0.9, f"{settled} of {self.name_count}"
        return settled

    async def stop_watching(self) -> None:
        """Hang up; the next `until` resumes."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    async def _next(self) -> None:
        try:
            if self._stream is None:
                self._stream = self.world.campaigns.WatchCampaigns(
                    campaign_service_pb2.WatchCampaignsRequest(
                        campaign_ids=[self.campaign_id],
                        resume_revisions={self.campaign_id: self.revision},
                        until_finished=True,
                    )
                )
            message = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            if error.code() not in PASSING:
                raise
            self._stream = None
            self.reconnects += 1
            await asyncio.sleep(0.05)
            return
        assert message is not grpc.aio.EOF, "the watch ended before the campaign did"
        kind = message.WhichOneof("kind")
        assert kind != "state", "a resumed watch sends no state"
        if kind == "progress":
            self._progressed(message.progress)
        elif kind == "event":
            self._happened(message.event)

    def _progressed(self, progress: Any) -> None:
        self.status = progress.status
        self.progress_count += 1
        assert sum(entry.count for entry in progress.outcomes) == progress.settled_count
        assert progress.settled_count <= progress.name_count

    def _happened(self, event: Any) -> None:
        assert event.revision == self.revision + 1, "a gap or a repeat"
        self.revision = event.revision
        kind = event.WhichOneof("kind")
        if kind == "chunk_settled":
            chunk = event.chunk_settled
            key = (chunk.phase, chunk.first_position)
            assert key not in self.settled, f"chunk {key} was settled twice"
            assert sum(entry.count for entry in chunk.outcomes) == chunk.name_count
            self.settled[key] = chunk.name_count
        elif kind == "chunk_retried":
            self.retried.append((event.chunk_retried.phase, event.chunk_retried.first_position))
        elif kind == "campaign_finished":
            self.ending = event.campaign_finished.status

    async def _situation(self) -> str:
        chunks = await self.world.rows(
            """SELECT phase, state, claim_time IS NOT NULL AS claimed, count(*),
                   min(lease_expire_time) - now() AS lease
               FROM chunks GROUP BY 1, 2, 3"""
        )
        parts = {name: p.state.value for name, p in self.world.suite.processes.items()}
        return f"did not come true; settled {self.share():.0%}, chunks {chunks}, parts {parts}"


async def check_every_verdict(trial: Trial) -> None:
    """Compare everything that is stored and served with the truth, name by name."""
    names = list(expected_names(trial.name_count, trial.constant))
    mix = Mix()
    truths = [truth(name, SEED, mix) for name in names]
    right = [(name, true.verdict) for name, true in zip(names, truths, strict=True)]

    stored = await trial.world.rows(
        """SELECT d.position, d.name FROM domains d JOIN campaigns k ON k.no = d.campaign_no
           WHERE k.id = $1 ORDER BY d.position""",
        uuid.UUID(trial.campaign_id),
    )
    results = await trial.world.rows(
        """SELECT r.position, r.verdict, r.rcode, r.attempt_count, r.duration_us
           FROM dns_results r JOIN campaigns k ON k.no = r.campaign_no
           WHERE k.id = $1 ORDER BY r.position""",
        uuid.UUID(trial.campaign_id),
    )
    every = list(range(trial.name_count))
    _assert_same([row["position"] for row in stored], every)
    _assert_same([row["position"] for row in results], every)
    found = [(s["name"], r["verdict"]) for s, r in zip(stored, results, strict=True)]
    _assert_same(found, right, evidence=results)

    streamed = await stream_domains(trial)
    _assert_same(streamed.positions, every)
    _assert_same(list(zip(streamed.names, streamed.verdicts, strict=True)), right)
    right_addresses = [",".join(true.addresses) for true in truths]
    _assert_same(streamed.addresses, right_addresses)

    await check_receipt(trial, [true.verdict for true in truths])
    await check_history(trial)


def _assert_same(found: list[Any], right: list[Any], evidence: list[Any] | None = None) -> None:
    """Names the first few entries that differ: pytest's comparison of long lists takes minutes."""
    assert len(found) == len(right)
    unlike = [i for i, (f, r) in enumerate(zip(found, right, strict=True)) if f != r]
    shown = [(found[i], right[i], evidence[i] if evidence else "") for i in unlike[:5]]
    assert not unlike, f"{len(unlike)} differ; found, right, evidence: {shown}"


async def check_receipt(trial: Trial, verdicts: list[int]) -> None:
    receipt = (
        await insist(
            trial.world.campaigns.GetReceipt,
            campaign_service_pb2.GetReceiptRequest(campaign_id=trial.campaign_id),
        )
    ).receipt
    assert receipt.balanced
    generation, dns = receipt.phases
    assert [(entry.outcome, entry.count) for entry in generation.outcomes] == [
        ("GENERATED", trial.name_count)
    ]
    right: dict[str, int] = {}
    for verdict in verdicts:
        name = dns_pb2.DnsVerdict.Name(dns_pb2.DnsVerdict.ValueType(verdict)).removeprefix(
            "DNS_VERDICT_"
        )
        right[name] = right.get(name, 0) + 1
    assert {entry.outcome: entry.count for entry in dns.outcomes} == right
    assert (dns.name_count, dns.unsettled_count) == (trial.name_count, 0)


async def check_history(trial: Trial) -> None:
    """Revisions 1..n without a gap, each seen by the watch, and the settled names sum up."""
    revisions = await trial.world.rows(
        """SELECT e.revision FROM events e JOIN campaigns k ON k.no = e.campaign_no
           WHERE k.id = $1 ORDER BY e.revision""",
        uuid.UUID(trial.campaign_id),
    )
    assert [row[0] for row in revisions] == list(range(1, trial.revision + 1))
    assert trial.share(GENERATION) == 1
    assert trial.share() == 1


@dataclass(slots=True)
class Streamed:
    """Everything that one or more calls of StreamDomains sent."""

    positions: list[int]
    names: list[str]
    verdicts: list[int]
    addresses: list[str]
    calls: int = 0


async def stream_domains(
    trial: Trial,
    *,
    columns: Sequence[query_service_pb2.DomainColumn.ValueType] = EVERY_COLUMN,
    on_batch: Callable[[Streamed], None] = lambda streamed: None,
) -> Streamed:
    """The whole campaign, resumed by cursor whenever the stream is cut."""
    request = query_service_pb2.StreamDomainsRequest(
        campaign_ids=[trial.campaign_id], columns=columns
    )
    streamed = Streamed([], [], [], [])
    async with asyncio.timeout(60):
        while True:
            streamed.calls += 1
            try:
                async for message in trial.world.query.StreamDomains(request):
                    if message.WhichOneof("kind") == "summary":
                        assert list(message.summary.unreachable) == []
                        return streamed
                    batch = message.batch
                    streamed.positions += batch.positions
                    streamed.names += batch.names
                    streamed.verdicts += batch.dns_verdicts
                    streamed.addresses += batch.addresses
                    request.cursor = batch.cursor
                    on_batch(streamed)
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    raise
                await asyncio.sleep(0.05)
                continue
            raise AssertionError("a stream ended in order without its summary")
