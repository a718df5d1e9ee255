"""How far the running phases are, for all watchers together.

What is settled is counted from the events, beginning at one look into the ledger, so that progress
costs the tables the same however large a campaign is; what is open, who works on it and what the
workers say of themselves is looked up for all campaigns at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from domainflow.validation.v1 import dns_settings_pb2, task_pb2
from services.campaign.campaign import Phase, Status
from services.campaign.changes import Change, Recent
from services.campaign.estimate import Endpoint, Sample, Window, remaining, worst
from services.campaign.events import proto_phase, proto_status
from services.campaign.history import History, OpenWork, Settled, WorkerReport
from services.campaign.ledger import POOLS
from services.campaign.messages import Message, bounded
from services.campaign.outcomes import OUTCOMES
from services.chassis.dns_settings import label_of
from services.chassis.endpoint import BadEndpoint

# Between two messages on one campaign there are at least so many seconds: at most 4 within any
# second, the one that a new watcher begins with included.
PERIOD = 0.34
# Seconds between two looks at the open chunks, and at the workers.
OPEN_PERIOD = 0.5
WORKER_PERIOD = 2.0
# A worker reports every 5 s; one whose report has not changed for so long is not counted.
WORKER_SILENCE = 20.0
# Ledgers summed, or looked through for what is open, in one statement.
SUM_PORTION = 50


@dataclass(slots=True)
class _Gauge:
    """One run of one campaign's current phase, counted up to `revision`."""

    campaign_id: UUID
    phase: Phase
    status: Status
    run: int = 0
    revision: int = 0
    name_count: int = 0
    # Names may still come to an upload that is open.
    is_total_known: bool = False
    settled_count: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    settled_chunks: int = 0
    # Attempts that settled nothing, since the run is followed.
    vain_attempts: int = 0
    # Attempts beyond the first at chunks that are settled.
    repeat_count: int = 0
    retry_count: int = 0
    dead_letter_count: int = 0
    # As workers call them. None: those of the machine that each worker runs on are among them.
    resolvers: frozenset[str] | None = None
    # To be read from the ledger before anything is said.
    is_stale: bool = True
    open: OpenWork | None = None
    # The chunk claimed for longest: its fence, its age when it was first seen, and when that was.
    oldest: tuple[tuple[int | None, int | None], float, float] | None = None
    window: Window = field(default_factory=Window)
    told: Message | None = None
    # When it was last looked at.
    look_time: float = -PERIOD

    @property
    def is_over(self) -> bool:
        return self.status not in {Status.RUNNING, Status.PAUSED}


class Gauges:
    """Progress of the campaigns that are watched; `recent` are their newest events."""

    def __init__(self, history: History, recent: Recent[Message]) -> None:
        self._history = history
        self._recent = recent
        self._gauges: dict[int, _Gauge] = {}
        self._workers = _Workers()
        self._open_due = 0.0
        self._workers_due = 0.0

    @property
    def followed(self) -> Iterable[int]:
        """The campaigns with a phase that runs or is paused."""
        return self._gauges.keys()

    def told(self, campaign_no: int) -> Message | None:
        """The newest progress of a campaign."""
        gauge = self._gauges.get(campaign_no)
        return gauge.told if gauge else None

    def begin(self, campaign_no: int, campaign_id: UUID, phase: int, status: str) -> None:
        """Measure a campaign from now on if this status of its current phase asks for it."""
        if status in {Status.RUNNING, Status.PAUSED} and campaign_no not in self._gauges:
            self._gauges[campaign_no] = _Gauge(campaign_id, Phase(phase), Status(status))

    def forget(self, campaign_no: int) -> None:
        """Measure a campaign no more."""
        self._gauges.pop(campaign_no, None)

    def take(self, change: Change[Message], campaign_id: UUID) -> None:
        """Count in what one transaction recorded of a campaign."""
        no = change.campaign_no
        for message in change.messages:
            event = message.event
            if event.HasField("phase_changed"):
                self._change_phase(no, campaign_id, event.phase_changed)
            gauge = self._gauges.get(no)
            if gauge is not None and not gauge.is_stale:
                _count(gauge, event)

    def _change_phase(self, no: int, campaign_id: UUID, changed: event_pb2.PhaseChanged) -> None:
        gauge = self._gauges.get(no)
        name = campaign_pb2.PhaseStatus.Name(changed.to_status).removeprefix("PHASE_STATUS_")
        if name not in set(Status):
            return
        status = Status(name)
        if gauge is not None and gauge.phase == int(changed.phase) and gauge.run == changed.run:
            gauge.status = status
            gauge.window.clear()
            # The last word on a run is the ledger's own.
            gauge.is_stale |= gauge.is_over
        elif status is Status.RUNNING:
            self._gauges[no] = _Gauge(campaign_id, Phase(changed.phase), status)
        elif gauge is not None and gauge.phase == int(changed.phase):
            gauge.is_stale = True

    async def measure(self, now: float) -> dict[int, Message]:
        """Return the progress messages of all campaigns whose progress has changed."""
        await self.look(now)
        return dict(self.news(now))

    async def look(self, now: float) -> None:
        """Read from the tables what is due."""
        await self._read_stale()
        running = {
            no: gauge
            for no, gauge in self._gauges.items()
            if gauge.status is Status.RUNNING and not gauge.is_stale
        }
        if running and now >= self._workers_due:
            self._workers_due = now + WORKER_PERIOD
            self._workers.take(await self._history.worker_reports(), now)
        if running and now >= self._open_due:
            self._open_due = now + OPEN_PERIOD
            await self._read_open(running, now)

    def news(self, now: float) -> Iterator[tuple[int, Message]]:
        """The progress that has changed, those campaigns first that were told of longest ago.

        Whoever takes only some of it gets the others first the next time.
        """
        for no, gauge in list(self._gauges.items()):
            # Never ahead of the events that the watchers are sent.
            if gauge.is_stale or gauge.revision > (self._recent.newest(no) or 0):
                continue
            if now - gauge.look_time < PERIOD:
                continue
            gauge.look_time = now
            del self._gauges[no]
            if not gauge.is_over:
                self._gauges[no] = gauge
            message = bounded(Message(progress=self._progress(gauge, now)))
            if message != gauge.told:
                gauge.told = message
                yield no, message

    async def _read_stale(self) -> None:
        stale = [(no, int(g.phase)) for no, g in self._gauges.items() if g.is_stale]
        for first in range(0, len(stale), SUM_PORTION):
            for settled in await self._history.settled(stale[first : first + SUM_PORTION]):
                gauge = self._gauges.get(settled.campaign_no)
                if gauge is not None and gauge.phase == settled.phase:
                    self._begin_anew(gauge, settled)

    def _begin_anew(self, gauge: _Gauge, settled: Settled) -> None:
        """Count from what the ledger says, and add what was recorded since."""
        no = settled.campaign_no
        newest = self._recent.newest(no) or 0
        missed = self._recent.after(no, settled.revision, 1000) if newest > settled.revision else []
        if missed is None or (missed and missed[-1].last != newest):
            # Not all of it is in memory any more: the next look is newer.
            return
        if gauge.run != settled.run or gauge.settled_count > settled.settled_count:
            # Verdicts were taken back: no rate is less than zero.
            gauge.window.clear()
        phase = Phase(settled.phase)
        gauge.run, gauge.revision = settled.run, settled.revision
        gauge.status = Status(settled.status)
        gauge.name_count, gauge.settled_count = settled.name_count, settled.settled_count
        gauge.is_total_known = settled.is_total_known
        counts = zip(OUTCOMES.get(phase, ()), settled.outcomes, strict=False)
        gauge.outcomes = {name: count for name, count in counts if count}
        gauge.repeat_count = gauge.retry_count = settled.repeat_count
        gauge.dead_letter_count = settled.dead_letter_count
        gauge.resolvers = _resolvers(settled) if phase is Phase.DNS_VALIDATION else None
        gauge.is_stale = False
        if gauge.is_over:
            gauge.open = None
        for change in missed:
            self.take(change, gauge.campaign_id)

    async def _read_open(self, running: Mapping[int, _Gauge], now: float) -> None:
        runs = [(no, int(gauge.phase), gauge.run) for no, gauge in running.items()]
        found: list[OpenWork] = []
        for first in range(0, len(runs), SUM_PORTION):
            found += await self._history.open_work(runs[first : first + SUM_PORTION])
        for open_ in found:
            gauge = running[open_.campaign_no]
            gauge.open = open_
            gauge.name_count = max(gauge.name_count, open_.name_count)
            gauge.is_total_known = open_.is_total_known
            # Settled ones are counted with their events, a moment sooner or later.
            gauge.retry_count = max(gauge.retry_count, gauge.repeat_count + open_.repeat_count)
            fence = (open_.oldest_first_position, open_.oldest_attempt)
            # Seen for the first time, a claim is as old as the database's clock says; then ours
            # goes on, which nobody sets.
            if gauge.oldest is None or gauge.oldest[0] != fence:
                gauge.oldest = (fence, open_.oldest_age, now)

    def _progress(self, gauge: _Gauge, now: float) -> event_pb2.Progress:
        progress = event_pb2.Progress(
            campaign_id=str(gauge.campaign_id),
            revision=gauge.revision,
            phase=proto_phase(gauge.phase),
            status=proto_status(gauge.status),
            run=gauge.run,
            # An upload may have grown since its number of names was read.
            name_count=max(gauge.name_count, gauge.settled_count),
            settled_count=gauge.settled_count,
            outcomes=_in_order(gauge),
            retry_count=max(gauge.retry_count, gauge.repeat_count),
            dead_letter_count=gauge.dead_letter_count,
        )
        if gauge.status is not Status.RUNNING:
            return progress
        pace = gauge.window.pace(
            Sample(now, gauge.settled_count, gauge.settled_chunks, gauge.vain_attempts)
        )
        progress.names_per_second = round(pace.names_per_second, 1)
        progress.worker_memory_bytes = self._workers.memory_bytes
        longest_delay = 0.0
        if gauge.open is not None:
            progress.chunks_in_flight = gauge.open.chunks_in_flight
            longest_delay = gauge.open.longest_delay
        left = remaining(progress.name_count - gauge.settled_count, pace, longest_delay)
        if left is not None and gauge.is_total_known:
            progress.remaining.FromMilliseconds(int(min(left, 1e9) * 10) * 100)
        self._tell_waiting(progress.waiting_for, gauge, now)
        return progress

    def _tell_waiting(self, waiting: event_pb2.WaitingFor, gauge: _Gauge, now: float) -> None:
        waiting.SetInParent()
        endpoint = self._workers.worst(POOLS.get(gauge.phase, ""), gauge.resolvers)
        if endpoint is not None:
            waiting.endpoint = endpoint.name
            waiting.endpoint_loss = round(endpoint.loss, 4)
            if endpoint.latency:
                waiting.endpoint_latency.FromMicroseconds(int(endpoint.latency * 1e6))
        if gauge.open is None:
            return
        waiting.delayed_chunk_count = gauge.open.delayed_chunk_count
        if gauge.oldest is not None and gauge.open.oldest_first_position is not None:
            _, age, seen = gauge.oldest
            waiting.oldest_first_position = gauge.open.oldest_first_position
            waiting.oldest_worker = gauge.open.oldest_worker or ""
            # Whole seconds: a message that says nothing else is not worth sending.
            waiting.oldest_age.FromSeconds(int(age + now - seen))


def _count(gauge: _Gauge, event: event_pb2.Event) -> None:
    """Add one event to a gauge that is counted up to the one before."""
    if event.revision <= gauge.revision:
        return
    if event.revision > gauge.revision + 1:
        gauge.is_stale = True
        return
    gauge.revision = event.revision
    kind = event.WhichOneof("kind")
    if kind == "chunk_settled":
        settled = event.chunk_settled
        if (int(settled.phase), settled.run) == (gauge.phase, gauge.run):
            gauge.settled_count += settled.name_count
            gauge.settled_chunks += 1
            gauge.repeat_count += max(settled.attempt - 1, 0)
            for outcome in settled.outcomes:
                counted = gauge.outcomes.get(outcome.outcome, 0)
                gauge.outcomes[outcome.outcome] = counted + outcome.count
    elif kind == "name_dead_lettered":
        letter = event.name_dead_lettered
        if (int(letter.phase), letter.run) == (gauge.phase, gauge.run):
            gauge.dead_letter_count += 1
    elif kind in {"chunk_retried", "chunk_split"}:
        gauge.vain_attempts += 1
    elif kind in {"dead_letters_resolved", "verdicts_withdrawn", "campaign_updated"}:
        # Verdicts may have been taken back; others may be asked from now on.
        gauge.is_stale = True


def _in_order(gauge: _Gauge) -> list[campaign_pb2.OutcomeCount]:
    """The outcomes in the order of their numbers; ones that this version does not know come
    last."""
    known = OUTCOMES.get(gauge.phase, ())
    names = [name for name in known if name in gauge.outcomes]
    names += sorted(gauge.outcomes.keys() - set(known))
    return [campaign_pb2.OutcomeCount(outcome=name, count=gauge.outcomes[name]) for name in names]


def _resolvers(settled: Settled) -> frozenset[str] | None:
    dns = campaign_pb2.CampaignConfiguration.FromString(settled.configuration).dns
    given = [dns_settings_pb2.DnsResolver(address=text) for text in dns.resolvers]
    labels = set()
    for resolver in given or dns.settings.resolvers:
        try:
            label = label_of(resolver)
        except BadEndpoint:
            continue
        if label is None:
            return None
        labels.add(label)
    return frozenset(labels) or None


class _Workers:
    """What the workers measured, of those that are heard of."""

    def __init__(self) -> None:
        # Report time, and when by our clock it was first seen.
        self._seen: dict[str, tuple[datetime, float]] = {}
        self._loads: list[tuple[str, task_pb2.WorkerLoad]] = []

    def take(self, reports: Sequence[WorkerReport], now: float) -> None:
        """Keep what is fresh. Whether a worker reports is seen by its report changing: its time is
        the database's, which may be set."""
        seen = {}
        self._loads = []
        for report in reports:
            time, since = self._seen.get(report.worker_id, (None, 0.0))
            if time is None:
                since = now if report.is_recent else now - WORKER_SILENCE
            elif time != report.report_time:
                since = now
            seen[report.worker_id] = (report.report_time, since)
            if report.load and now - since < WORKER_SILENCE:
                self._loads.append((report.pool, task_pb2.WorkerLoad.FromString(report.load)))
        self._seen = seen

    @property
    def memory_bytes(self) -> int:
        """Resident memory of all of them."""
        return sum(load.memory_bytes for _, load in self._loads)

    def worst(self, pool: str, among: frozenset[str] | None) -> Endpoint | None:
        """The endpoint that the pool's workers wait for most, of those given or of all."""
        return worst(
            Endpoint(e.endpoint, e.questions_per_second, e.loss, e.latency_us / 1e6)
            for worker_pool, load in self._loads
            if worker_pool == pool
            for e in load.endpoints
            if among is None or e.endpoint in among
        )
