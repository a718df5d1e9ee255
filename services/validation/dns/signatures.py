"""Tells broken signatures from other failures, with the resolvers that check them."""

from collections.abc import Iterable

from services.validation.dns import opinions
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.together import together
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import (
    DNSSEC_ERRORS,
    Agreement,
    Evidence,
    Outcome,
    Verdict,
    is_final,
)


class Signatures:
    """Asks a resolver that failed whether it would answer unchecked."""

    def __init__(self, engine: Engine, resolvers: Iterable[Resolver]) -> None:
        self._engine = engine
        self._resolvers = {str(it): it for it in resolvers}

    async def unmask(self, outcomes: list[Outcome], indexes: Iterable[int], qtype: int) -> None:
        """Tell broken signatures from other failures: BOGUS instead of SERVFAIL.

        The resolver that failed is asked with checking disabled. If that works, then once more
        without, unless it spoke of signatures: what failed in passing may work by now. So is one
        that spoke of them before another, which may not check them, gave an answer.
        """
        failed: dict[str, list[int]] = {}
        for index in indexes:
            outcome = outcomes[index]
            label = complainant(outcome.evidence) if outcome.evidence is not None else ""
            if not label and outcome.verdict is Verdict.SERVFAIL:
                label = outcome.resolver
            if label in self._resolvers:
                failed.setdefault(label, []).append(index)
        if failed:
            await together(*(self._unmask_at(outcomes, *each, qtype) for each in failed.items()))

    async def _unmask_at(
        self, outcomes: list[Outcome], label: str, indexes: list[int], qtype: int
    ) -> None:
        route = Route(resolver=self._resolvers[label])
        unchecked = await self._engine.resolve(
            [outcomes[index].name for index in indexes],
            qtype=qtype,
            route=route,
            checking_disabled=True,
        )
        reason = f"{label} answers with checking disabled only: broken signatures"
        suspects = []
        for index, raw in zip(indexes, unchecked, strict=True):
            first = outcomes[index] = _later(outcomes[index], raw)
            if not is_final(raw.verdict):
                continue
            if first.verdict is Verdict.SERVFAIL and first.evidence is not None:
                if complainant(first.evidence):
                    outcomes[index] = opinions.with_opinions(
                        first._replace(verdict=Verdict.BOGUS),
                        Agreement.NOT_ASKED,
                        (opinions.opinion_of(raw, self._resolvers[label].operator),),
                        reason=reason,
                    )
                    continue
            suspects.append((index, raw))
        if not suspects:
            return
        checked = await self._engine.resolve(
            [outcomes[index].name for index, _ in suspects], qtype=qtype, route=route
        )
        for (index, raw), again in zip(suspects, checked, strict=True):
            first = outcomes[index] = _later(outcomes[index], again)
            evidence = first.evidence or again.evidence
            again = again._replace(attempts=first.attempts, duration_us=first.duration_us)
            if again.verdict is Verdict.SERVFAIL:
                outcome, why = again._replace(verdict=Verdict.BOGUS, evidence=evidence), reason
            elif is_final(again.verdict) and not is_final(first.verdict):
                outcome, why = again._replace(evidence=evidence), f"{label} failed at first"
            else:
                continue
            outcomes[index] = opinions.with_opinions(
                outcome,
                Agreement.NOT_ASKED,
                (opinions.opinion_of(raw, self._resolvers[label].operator),),
                reason=why,
            )


def complainant(evidence: Evidence) -> str:
    """The resolver that found fault with signatures; empty: none."""
    for it in evidence.opinions:
        if it.verdict is Verdict.SERVFAIL and it.ede in DNSSEC_ERRORS:
            return it.resolver
    return ""


def _later(outcome: Outcome, other: Outcome) -> Outcome:
    """The outcome after another question about the name."""
    return outcome._replace(
        attempts=outcome.attempts + other.attempts,
        duration_us=outcome.duration_us + other.duration_us,
    )
