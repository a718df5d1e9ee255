"""Names to verdicts with evidence: the first question, and all that it gives rise to.

Every step is asked about many names at once: most outcomes are complete after the first question,
and only those that are not are looked at again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from services.validation.dns import records
from services.validation.dns.canaries import Canaries
from services.validation.dns.engine import Engine
from services.validation.dns.health import Change
from services.validation.dns.plan import OpinionPolicy, Plan
from services.validation.dns.second_opinions import SecondOpinions
from services.validation.dns.signatures import Signatures, complainant
from services.validation.dns.together import together
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import Agreement, Evidence, Outcome, Verdict
from services.validation.dns.wildcards import Wildcards

# Rounds of questions without any answer that are to be reckoned with after the first, though a name
# may go through more: unchecked, other types, a second opinion and one or two more, wildcards.
FURTHER_ROUNDS = 6


class _Examination:
    """One examine() in progress."""

    __slots__ = ("known", "liars")

    def __init__(self) -> None:
        # Labels of resolvers found lying since it began: not looked into yet, and all others.
        self.liars: set[str] = set()
        self.known: set[str] = set()


class Examiner:
    """Examines names as a plan says. Open it with `async with`; one event loop only."""

    def __init__(self, plan: Plan) -> None:
        examination = plan.examination
        self.plan = plan
        self.engine = Engine(plan.resolvers, plan.engine)
        self.canaries = Canaries(plan, self.engine)
        self.canaries.listeners.append(self._take)
        self._qtypes = examination.qtypes
        self._first = examination.qtypes[0]
        self._operators = {str(it): it.operator for it in plan.resolvers}
        self._signatures = Signatures(self.engine, plan.resolvers)
        self.second_opinions = SecondOpinions(plan, self.engine, self.canaries, self._signatures)
        self._wildcards = None
        if examination.wildcards and self._first in records.ADDRESS_TYPES:
            self._wildcards = Wildcards(self.engine, plan, self.canaries.wrong)
        self._open: set[_Examination] = set()

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.canaries.close()
        finally:
            await self.engine.__aexit__(kind, error, trace)

    async def examine(self, names: Sequence[str]) -> list[Outcome]:
        """One outcome per name, in the order of `names`, which are normalised ASCII.

        Raises EngineClosed.
        """
        examination = _Examination()
        self._open.add(examination)
        try:
            async with self.canaries.in_use(len(names)):
                outcomes = await self.engine.resolve(names, qtype=self._first)
                await self._complete(outcomes, range(len(outcomes)))
                while examination.liars:
                    await self._ask_elsewhere(outcomes, examination)
            return outcomes
        finally:
            self._open.discard(examination)

    def redo(self, resolver: str) -> None:
        """Ask elsewhere about what rests on the word of this resolver, by its label, alone.

        Goes for the names in hand; the engine is told by others not to ask it any more.
        """
        for examination in self._open:
            examination.liars.add(resolver)

    def _take(self, change: Change) -> None:
        if change.lied_since is not None:
            self.redo(str(change.resolver))

    async def _complete(self, outcomes: list[Outcome], indexes: Iterable[int]) -> None:
        """All that comes after the first answers about these.

        What is slow to fail holds up nothing else: each name takes only the steps it needs.
        """
        absent, everything = Verdict.NXDOMAIN, self.second_opinions.policy is OpinionPolicy.ALL
        failed: list[int] = []
        others: list[int] = []
        for index in indexes:
            outcome = outcomes[index]
            verdict, evidence = outcome[1], outcome[11]
            if verdict is absent and evidence is None:
                if everything:
                    others.append(index)
            elif verdict is Verdict.SERVFAIL or (evidence is not None and complainant(evidence)):
                failed.append(index)
            else:
                others.append(index)
        if failed:
            await together(self._explain(outcomes, failed), self._refine(outcomes, others))
        elif others:
            await self._refine(outcomes, others)

    async def _explain(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        await self._signatures.unmask(outcomes, indexes, self._first)
        await self._refine(outcomes, indexes)

    async def _refine(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        """What resolves goes its way at once; for what does not, other types may come first."""
        resolved = [index for index in indexes if outcomes[index][1] is Verdict.RESOLVED]
        if len(resolved) == len(indexes):
            await self._confirm(outcomes, resolved)
            return
        others = [index for index in indexes if outcomes[index][1] is not Verdict.RESOLVED]
        await together(self._confirm(outcomes, resolved), self._reconsider(outcomes, others))

    async def _confirm(self, outcomes: list[Outcome], resolved: list[int]) -> None:
        if len(self._qtypes) > 1:
            await together(
                self._doubt(outcomes, resolved), self._ask_other_types(outcomes, resolved)
            )
        else:
            await self.second_opinions.seek(outcomes, resolved)
        await self._judge(outcomes, resolved)

    async def _doubt(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        changed = await self.second_opinions.seek(outcomes, indexes)
        await self._ask_other_types(outcomes, changed)

    async def _reconsider(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        await self._ask_other_types(outcomes, indexes)
        await self._doubt(outcomes, indexes)
        await self._judge(outcomes, indexes)

    async def _judge(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        """Tell what a wildcard of the parent resolves from what is there."""
        if self._wildcards is None:
            return
        resolved = [index for index in indexes if outcomes[index][1] is Verdict.RESOLVED]
        judged = await self._wildcards.judge([outcomes[index] for index in resolved])
        for index, outcome in zip(resolved, judged, strict=True):
            outcomes[index] = outcome

    async def _ask_elsewhere(self, outcomes: list[Outcome], examination: _Examination) -> None:
        """Begin anew with positives that only liars vouch for."""
        examination.known |= examination.liars
        examination.liars.clear()
        liars = examination.known
        suspects: dict[str, list[int]] = {}
        for index, outcome in enumerate(outcomes):
            if _rests_on(outcome, liars):
                suspects.setdefault(self._operators.get(outcome.resolver, ""), []).append(index)
        again = [index for indexes in suspects.values() for index in indexes]
        answers = await together(
            *(
                self.engine.resolve(
                    [outcomes[index].name for index in indexes],
                    qtype=self._first,
                    route=Route(avoid_operator=operator),
                )
                for operator, indexes in suspects.items()
            )
        )
        for index, answer in zip(again, (it for each in answers for it in each), strict=True):
            reason = f"asked again: {outcomes[index].resolver} was found lying"
            evidence = replace(answer.evidence or Evidence(), reason=reason)
            attempts = outcomes[index].attempts + answer.attempts
            outcomes[index] = answer._replace(attempts=attempts, evidence=evidence)
        await self._complete(outcomes, again)

    # Types of record

    async def _ask_other_types(self, outcomes: list[Outcome], indexes: Iterable[int]) -> None:
        """Ask for the types that are still missing, all at once."""
        missing: dict[int, list[int]] = {}
        for index in indexes:
            for qtype in records.missing(outcomes[index], self._qtypes, self._first):
                missing.setdefault(qtype, []).append(index)
        if not missing:
            return
        answers = await together(
            *(
                self.engine.resolve([outcomes[index].name for index in indexes], qtype=qtype)
                for qtype, indexes in missing.items()
            )
        )
        found: dict[int, dict[int, Outcome]] = {}
        for (qtype, asked), each in zip(missing.items(), answers, strict=True):
            for index, answer in zip(asked, each, strict=True):
                found.setdefault(index, {})[qtype] = answer
        for index, by_type in found.items():
            outcome = outcomes[index]
            if not records.missing(outcome, self._qtypes, self._first):
                # Found not to exist meanwhile.
                continue
            known = {it.qtype: it for it in outcome.evidence.records} if outcome.evidence else {}
            known.setdefault(self._first, records.record_of(self._first, outcome))
            for qtype, answer in by_type.items():
                known[qtype] = records.record_of(qtype, answer)
            attempts = outcome.attempts + sum(it.attempts for it in by_type.values())
            outcomes[index] = records.combine(
                outcome._replace(attempts=attempts),
                tuple(known[qtype] for qtype in self._qtypes if qtype in known),
            )


def _rests_on(outcome: Outcome, liars: set[str]) -> bool:
    """Whether a positive, or part of it, has nobody's word behind it but these resolvers'."""
    if outcome.verdict not in (Verdict.RESOLVED, Verdict.WILDCARD):
        return False
    evidence = outcome.evidence
    if evidence is None:
        return outcome.resolver in liars
    if any(
        it.verdict is Verdict.RESOLVED and it.resolver in liars and it.resolver != outcome.resolver
        for it in evidence.records
    ):
        return True
    if outcome.resolver not in liars or evidence.agreement is Agreement.DECIDED_BY_AUTHORITY:
        return False
    return not any(
        it.verdict is Verdict.RESOLVED and it.resolver not in liars for it in evidence.opinions
    )
