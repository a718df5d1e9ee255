"""The probe of the DNS pool: names -> engine -> rows of dns_results."""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from math import ceil

from domainflow.campaign.v1 import campaign_pb2
from services.validation.dns.authority import PATIENCE
from services.validation.dns.canaries import MAX_PATIENCE
from services.validation.dns.examiner import FURTHER_ROUNDS
from services.validation.dns.lanes import Lanes
from services.validation.dns.plan import Plan
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.engines import Engines
from services.validation.evidence import evidence_to_bytes
from services.validation.load import EndpointCounts
from services.validation.plans import plan_of
from services.validation.probe import Check
from services.validation.resolver_news import ResolverNews
from services.validation.resolver_reports import Reporter
from services.validation.results import ChunkResults, chunk_results
from services.validation.store import Claim, Settled, Store
from services.validation.withdrawals import Withdrawals


class DnsProbe:
    """Asks the resolvers that a campaign names."""

    pool = "dns"
    phases = frozenset({int(campaign_pb2.PHASE_DNS_VALIDATION)})
    # Some 0.4 kB each. A chunk waits for the last attempt of its mute names, 6 s by default; at
    # 75,000 names/s that many are under way meanwhile.
    names_limit = 500_000
    # Enough for the time a claim takes, 50 ms at 75,000 names/s; few enough that other workers get
    # their share, and that a small campaign need not wait long behind a large one.
    names_ahead = 4_000
    parking = None

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self._withdrawals = Withdrawals[Plan, Settled]()

    def waiting(self) -> int:
        return self.engines.waiting()

    def endpoints(self) -> Iterable[EndpointCounts]:
        return self.engines.endpoints()

    async def attend(self, store: Store, worker_id: str, host: str) -> None:
        who = Reporter(worker_id, host)
        await ResolverNews(self.engines, store, who, self._withdrawals).tell()

    async def items(self, store: Store, claim: Claim) -> Sequence[str]:
        return await store.names(claim)

    def name(self, item: str) -> str:
        return item

    @asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[str, Outcome]]:
        plan = plan_of(_configuration(claim))
        number = self._withdrawals.begun(plan, time.monotonic())
        try:
            async with self.engines.use(plan) as examiner:
                yield examiner.examine
        finally:
            self._withdrawals.ended(number, time.monotonic())

    def results(self, claim: Claim, outcomes: Sequence[Outcome]) -> ChunkResults:
        key = claim.key
        plan, settled = plan_of(_configuration(claim)), Settled(key, claim.attempt)
        self._withdrawals.checked(plan, settled, time.monotonic())
        now = time.time_ns() // 1000
        return chunk_results(
            key.campaign_no, key.run, key.first_position, outcomes, now, evidence_to_bytes
        )

    def dead_letter(self, item: str) -> Outcome:
        return Outcome(item, Verdict.DEAD_LETTER, -1, (), (), -1, "", 0, 0, False)

    def time_limit(self, claim: Claim) -> float:
        settings = plan_of(_configuration(claim)).engine
        lanes = Lanes(settings)
        # One window after the other, every name of it mute, and one that goes through all lanes
        # each time it is asked about.
        windows = ceil(claim.name_count / settings.window)
        checking = windows * lanes.mute_time + (1 + FURTHER_ROUNDS) * lanes.longest
        # Canaries come first, the authority last.
        return MAX_PATIENCE + checking + PATIENCE


def _configuration(claim: Claim) -> campaign_pb2.DnsConfiguration:
    return campaign_pb2.CampaignConfiguration.FromString(claim.configuration).dns
