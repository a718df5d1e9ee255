"""Tries every resolver of a plan now, with an engine of its own that leaves nothing behind."""

import asyncio
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from domainflow.validation.v1 import dns_settings_pb2, resolver_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.validation.dns.engine import Engine
from services.validation.dns.health import Finding, finding, told
from services.validation.dns.plan import Canary, CanaryKind, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.stats import ResolverState, ResolverStats
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.evidence import outcome_to_pb

MAX_RESOLVERS = 100
# Somebody waits: the whole takes 25 s at most. A question that gets no answer is asked once more.
TIME_LIMIT = 25.0
_TIMEOUT, _TRIES = 10.0, 2
# Random bytes of a label that nobody has registered.
_RANDOM = 14


@dataclass(frozen=True, slots=True)
class _Tried:
    """How a resolver answered one canary."""

    canary: Canary
    name: str
    finding: Finding
    answer: str


@dataclass(frozen=True, slots=True)
class _Trial:
    """How one resolver answered everything; None in the place of what came too late."""

    resolver: Resolver
    canaries: Sequence[_Tried]
    outcomes: Sequence[Outcome | None]


async def trial(plan: Plan, names: Sequence[str]) -> list[pb.ResolverTest]:
    """Ask each resolver, whatever it is worth, the canaries and the names; at most 25 s.

    One test per resolver in the order of the plan. `names` are normalised ASCII.
    """
    settings = replace(
        plan.engine,
        timeout=min(plan.engine.timeout, _TIMEOUT),
        tries=min(plan.engine.tries, _TRIES),
        lanes=(),
        sockets_per_resolver=1,
    )
    asked = [
        (canary, canary.name.replace("*", secrets.token_hex(_RANDOM), 1))
        for canary in plan.examination.canaries
    ]
    async with Engine(plan.resolvers, settings) as engine:
        trials = await asyncio.gather(
            *(_try(engine, resolver, asked, names) for resolver in plan.resolvers)
        )
        stats = {it.resolver: it for it in engine.stats().resolvers}
    # What none of several says rightly tells more about the canary.
    passable = {it.canary for each in trials for it in each.canaries if _is_passed(it)}
    if len(trials) == 1:
        passable.update(plan.examination.canaries)
    now = time.time_ns()
    return [_test(each, stats[str(each.resolver)], passable, now) for each in trials]


async def _try(
    engine: Engine,
    resolver: Resolver,
    asked: Sequence[tuple[Canary, str]],
    names: Sequence[str],
) -> _Trial:
    route = Route(resolver=resolver)

    async def outcome_of(name: str, *, unchecked: bool = False) -> Outcome | None:
        try:
            async with asyncio.timeout_at(end):
                (outcome,) = await engine.resolve([name], route=route, checking_disabled=unchecked)
        except TimeoutError:
            return None
        return outcome

    async def tried(canary: Canary, name: str) -> _Tried:
        outcome, unchecked = await outcome_of(name), None
        if canary.kind is CanaryKind.BOGUS and outcome is not None:
            unchecked = await outcome_of(name, unchecked=True)
        said = finding(canary.kind, resolver.transport, outcome, unchecked)
        return _Tried(canary, name, said, told(outcome))

    end = asyncio.get_running_loop().time() + TIME_LIMIT
    canaries, outcomes = await asyncio.gather(
        asyncio.gather(*(tried(canary, name) for canary, name in asked)),
        asyncio.gather(*(outcome_of(name) for name in names)),
    )
    return _Trial(resolver, canaries, outcomes)


def _test(
    trial: _Trial, stats: ResolverStats, passable: set[Canary], now_ns: int
) -> pb.ResolverTest:
    resolver = trial.resolver
    state, reason = _state(trial, passable)
    # Whether it validates is worth knowing, and nobody is worth less for it.
    counted = [
        it for it in trial.canaries if it.canary in passable and it.canary.kind != CanaryKind.BOGUS
    ]
    share = sum(map(_is_passed, counted)) / len(counted) if counted else 1.0
    in_time = stats.answered / (stats.answered + stats.timeouts) if stats.answered else 0.0
    report = resolver_pb2.ResolverReport(
        resolver=str(resolver),
        transport=dns_settings_pb2.DnsTransport.ValueType(resolver.transport),
        operator=resolver.operator,
        host=socket.gethostname(),
        state=resolver_pb2.ResolverState.ValueType(state),
        reason=reason,
        score=share * in_time,
        question_count=stats.sent,
        answer_count=stats.answered,
        timeout_count=stats.timeouts,
        servfail_count=stats.servfail,
        refused_count=stats.refused,
        loss=stats.loss,
        window=stats.window,
        validates=any(
            it.canary.kind is CanaryKind.BOGUS and _is_passed(it) for it in trial.canaries
        ),
    )
    if stats.timed:
        report.latency.FromNanoseconds(stats.waited_ns // stats.timed)
    report.report_time.FromNanoseconds(now_ns)
    for it in trial.canaries:
        result = report.canaries.add(
            kind=dns_settings_pb2.Canary.Kind.ValueType(it.canary.kind),
            name=it.name,
            passed=_is_passed(it),
            answer=it.answer,
        )
        result.check_time.FromNanoseconds(now_ns)
    test = pb.ResolverTest(report=report)
    for outcome in trial.outcomes:
        if outcome is not None:
            test.checked_names.add(name=outcome.name, dns=outcome_to_pb(outcome, now_ns))
    return test


def _state(trial: _Trial, passable: set[Canary]) -> tuple[ResolverState, str]:
    """What would become of the resolver, and why."""
    heard = [it for it in trial.canaries if it.finding is not Finding.UNHEARD]
    settled = [it for it in trial.outcomes if it is not None and it.verdict is not Verdict.TIMEOUT]
    if (trial.canaries or trial.outcomes) and not (heard or settled):
        return ResolverState.SUSPECT, "answered nothing"
    disregarded = ""
    for it in trial.canaries:
        if it.canary.kind is CanaryKind.BOGUS or _is_passed(it):
            continue
        if it.canary not in passable:
            disregarded = f"no resolver passed the canary {it.name}, which is disregarded"
        elif it.finding is Finding.LIED:
            why = f"said {it.answer} of {it.name}, which does not exist"
            return ResolverState.QUARANTINED, why
        else:
            return ResolverState.QUARANTINED, f"said {it.answer} of {it.name}, a canary"
    return ResolverState.ADMITTED, disregarded


def _is_passed(tried: _Tried) -> bool:
    return tried.finding is Finding.PASSED
