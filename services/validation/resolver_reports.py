"""What processes know of the resolvers they use: reports and the changes they tell of.

One public method is one transaction.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from domainflow.campaign.v1 import event_pb2
from domainflow.validation.v1 import dns_settings_pb2
from domainflow.validation.v1 import resolver_pb2 as pb
from services.chassis.postgres import Pool
from services.validation.dns.health import CanaryRecord, Change, Health
from services.validation.dns.stats import ResolverState, ResolverStats
from services.validation.process_reports import ProcessReports

LIST_LIMIT = 10_000
# Bytes of a list, about: an answer has to fit into what clients take, 4 MiB by default.
LIST_BYTES = 3 * 1024 * 1024
# Characters of a reason that are told: events are short.
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class KnownResolver:
    """One resolver as one engine and the watch over it have it."""

    stats: ResolverStats
    health: Health

    @property
    def state(self) -> ResolverState:
        if self.health.is_quarantined:
            return ResolverState.QUARANTINED
        return ResolverState.SUSPECT if self.stats.suspect else ResolverState.ADMITTED


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports."""

    worker_id: str
    host: str


class ResolverReports(ProcessReports):
    """The table `resolver_reports`, and the suite's history of resolvers."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, "resolver_reports")

    async def report(self, worker_id: str, reports: Sequence[pb.ResolverReport]) -> None:
        """Replace what this process said before."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "DELETE FROM resolver_reports WHERE worker_id = $1 AND resolver <> ALL($2)",
                worker_id,
                [report.resolver for report in reports],
            )
            await connection.execute(
                """INSERT INTO resolver_reports (worker_id, resolver, score, body)
                   SELECT $1, * FROM unnest($2::text[], $3::real[], $4::bytea[])
                   ON CONFLICT (worker_id, resolver) DO UPDATE SET
                       score = excluded.score, report_time = now(), body = excluded.body""",
                worker_id,
                [report.resolver for report in reports],
                [report.score for report in reports],
                [report.SerializeToString() for report in reports],
            )

    async def list(self, *, worker_id: str = "", resolver: str = "") -> list[pb.ResolverReport]:
        """Return the reports of the processes that live, worst score first, at most LIST_LIMIT and
        LIST_BYTES of them.

        An empty filter lets everything through.
        """
        living = await self.look()
        if worker_id:
            living &= {worker_id}
        rows = await self._pool.fetch(
            """SELECT report_time, body FROM (
                   SELECT *, sum(octet_length(body) + 20) OVER worst AS size FROM (
                       SELECT * FROM resolver_reports
                       WHERE worker_id = ANY($1) AND ($2 = '' OR resolver = $2)
                       ORDER BY score, resolver, worker_id LIMIT $3) AS listed
                   WINDOW worst AS (ORDER BY score, resolver, worker_id)) AS measured
               WHERE size <= $4 ORDER BY score, resolver, worker_id""",
            list(living),
            resolver,
            LIST_LIMIT,
            LIST_BYTES,
        )
        return [_reported(row["report_time"], row["body"]) for row in rows]


def reports(known: Iterable[KnownResolver], who: Reporter) -> list[pb.ResolverReport]:
    """One report per resolver: what several engines have of one is put together."""
    by_label: dict[str, list[KnownResolver]] = {}
    for each in known:
        by_label.setdefault(each.stats.resolver, []).append(each)
    now, wall = time.monotonic(), time.time()
    return [_report(entries, who, wall - now) for entries in by_label.values()]


def changed_event(change: Change, who: Reporter) -> event_pb2.SystemEvent:
    """The event that tells of a quarantine or readmission that has just happened."""
    event = event_pb2.ResolverChanged(
        resolver=str(change.resolver),
        operator=change.resolver.operator,
        host=who.host,
        worker_id=who.worker_id,
        state=pb.ResolverState.ValueType(change.state),
        previous_state=pb.ResolverState.ValueType(change.previous),
        reason=change.reason[:MAX_REASON],
    )
    if change.retry_at is not None:
        event.retry_time.FromMicroseconds(
            int((time.time() + change.retry_at - time.monotonic()) * 1e6)
        )
    return event_pb2.SystemEvent(resolver_changed=event)


def _report(entries: Sequence[KnownResolver], who: Reporter, epoch: float) -> pb.ResolverReport:
    """`epoch` is the wall clock when the monotonic one was zero."""
    # What is worst about it is told by whoever has it.
    worst = max(entries, key=lambda it: (it.state, -it.health.score))
    health, resolver = worst.health, worst.health.resolver
    report = pb.ResolverReport(
        resolver=str(resolver),
        transport=dns_settings_pb2.DnsTransport.ValueType(resolver.transport),
        operator=resolver.operator,
        worker_id=who.worker_id,
        host=who.host,
        state=pb.ResolverState.ValueType(worst.state),
        reason=_reason(worst),
        score=min(it.health.score for it in entries),
        question_count=sum(it.stats.sent for it in entries),
        answer_count=sum(it.stats.answered for it in entries),
        timeout_count=sum(it.stats.timeouts for it in entries),
        servfail_count=sum(it.stats.servfail for it in entries),
        refused_count=sum(it.stats.refused for it in entries),
        agree_count=sum(it.health.agreed for it in entries),
        disagree_count=sum(it.health.disagreed for it in entries),
        wrong_count=sum(it.health.wrong for it in entries),
        loss=max(it.stats.loss for it in entries),
        window=sum(it.stats.window for it in entries),
        validates=any(it.health.validates for it in entries),
        canaries=[_canary(record, epoch) for record in health.records.values()],
    )
    timed = sum(it.stats.timed for it in entries)
    if timed:
        waited = sum(it.stats.waited_ns for it in entries) / timed
        report.latency.FromTimedelta(timedelta(microseconds=waited / 1000))
    if health.is_quarantined:
        report.retry_time.FromMicroseconds(int((epoch + health.retry_at) * 1e6))
    return report


def _reason(known: KnownResolver) -> str:
    suspect = known.state is ResolverState.SUSPECT
    reason = "gives no answer at present" if suspect else known.health.reason
    return "; ".join(filter(None, (reason, known.stats.trouble)))[:MAX_REASON]


def _canary(record: CanaryRecord, epoch: float) -> pb.CanaryResult:
    result = pb.CanaryResult(
        kind=dns_settings_pb2.Canary.Kind.ValueType(record.kind),
        name=record.name,
        passed=record.passed,
        answer="" if record.passed else record.answer,
    )
    result.check_time.FromMicroseconds(int((epoch + record.at) * 1e6))
    return result


def _reported(report_time: datetime, body: bytes) -> pb.ResolverReport:
    report = pb.ResolverReport.FromString(body)
    report.report_time.FromDatetime(report_time)
    return report
