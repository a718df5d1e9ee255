"""Names to verdicts with evidence: the first question, and all that it gives rise to.

Every step is asked about many names at once: most outcomes are complete after the first question,
and only those that are not are looked at again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from services.validation.dns import opinions, records
from services.validation.dns.authority import Authority
from services.validation.dns.canaries import Canaries
from services.validation.dns.engine import Engine
from services.validation.dns.health import Change
from services.validation.dns.opinions import Standing
from services.validation.dns.plan import OpinionPolicy, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.stats import ResolverState
from services.validation.dns.together import together
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import (
    DNSSEC_ERRORS,
    Agreement,
    Evidence,
    Opinion,
    Outcome,
    Verdict,
    is_final,
)
from services.validation.dns.wildcards import Wildcards

# Rounds of questions without any answer that are to be reckoned with after the first, though a name
# may go through more: unchecked, other types, a second opinion and one or two more, wildcards.
FURTHER_ROUNDS = 6


class _Dispute:
    """A name that resolvers are not of one mind about."""

    __slots__ = ("heard", "index", "qtype")

    def __init__(self, index: int, qtype: int, heard: list[Outcome]) -> None:
        self.index = index
        self.qtype = qtype
        # The first outcome, then the opinions.
        self.heard = heard

    @property
    def contradicted(self) -> bool:
        """Whether usable answers exclude each other."""
        return len({it.verdict for it in self.heard if is_final(it.verdict)}) > 1


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
        self._resolvers: dict[str, Resolver] = {str(it): it for it in plan.resolvers}
        self._operators = {label: it.operator for label, it in self._resolvers.items()}
        self._policy = opinions.policy_of(
            examination.opinion, len(frozenset(self._operators.values()))
        )
        self._authority = None
        if examination.delegations is not None:
            self._authority = Authority(examination.delegations, self.engine.resolve)
        self._wildcards = None
        if examination.wildcards and self._first in records.ADDRESS_TYPES:
            self._wildcards = Wildcards(self.engine, plan, self.canaries.wrong)
        self._open: set[_Examination] = set()
        # Whose turn it is to give a third opinion.
        self._turn = 0

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.canaries.close()
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
        absent, everything = Verdict.NXDOMAIN, self._policy is OpinionPolicy.ALL
        failed: list[int] = []
        others: list[int] = []
        for index in indexes:
            outcome = outcomes[index]
            verdict, evidence = outcome[1], outcome[11]
            if verdict is absent and evidence is None:
                if everything:
                    others.append(index)
            elif verdict is Verdict.SERVFAIL or (evidence is not None and _complainant(evidence)):
                failed.append(index)
            else:
                others.append(index)
        if failed:
            await together(self._explain(outcomes, failed), self._refine(outcomes, others))
        elif others:
            await self._refine(outcomes, others)

    async def _explain(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        await self._unmask(outcomes, indexes, self._first)
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
            await self.second_opinions(outcomes, resolved)
        await self._judge(outcomes, resolved)

    async def _doubt(self, outcomes: list[Outcome], indexes: list[int]) -> None:
        changed = await self.second_opinions(outcomes, indexes)
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

    # Broken signatures

    async def _unmask(self, outcomes: list[Outcome], indexes: Iterable[int], qtype: int) -> None:
        """Tell broken signatures from other failures: BOGUS instead of SERVFAIL.

        The resolver that failed is asked with checking disabled. If that works, then once more
        without, unless it spoke of signatures: what failed in passing may work by now. So is one
        that spoke of them before another, which may not check them, gave an answer.
        """
        failed: dict[str, list[int]] = {}
        for index in indexes:
            outcome = outcomes[index]
            label = _complainant(outcome.evidence) if outcome.evidence is not None else ""
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
        unchecked = await self.engine.resolve(
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
                if _complainant(first.evidence):
                    outcomes[index] = opinions.with_opinions(
                        first._replace(verdict=Verdict.BOGUS),
                        Agreement.NOT_ASKED,
                        (self._opinion(raw),),
                        reason=reason,
                    )
                    continue
            suspects.append((index, raw))
        if not suspects:
            return
        checked = await self.engine.resolve(
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
                outcome, Agreement.NOT_ASKED, (self._opinion(raw),), reason=why
            )

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

    # Second opinions

    async def second_opinions(self, outcomes: list[Outcome], indexes: Sequence[int]) -> list[int]:
        """Put those at `indexes` to other operators, as the policy says, and settle disagreement.

        Changes `outcomes`; returns the indexes of those whose verdict is another now.
        """
        if self._policy is OpinionPolicy.NONE:
            return []
        asked: dict[tuple[str, int], list[int]] = {}
        examination = self.plan.examination
        chosen = opinions.wanted(
            [outcomes[index] for index in indexes], self._policy, examination.positive_percent
        )
        for place in chosen:
            index = indexes[place]
            operator = self._operators.get(outcomes[index].resolver)
            if opinions.is_shared(outcomes[index]):
                outcomes[index] = opinions.with_opinions(outcomes[index], Agreement.CONFIRMED, ())
            elif operator is not None:
                qtype = records.deciding(outcomes[index], self._first)
                asked.setdefault((operator, qtype), []).append(index)
        disputes: list[_Dispute] = []
        await together(
            *(self._ask_another(outcomes, *key, each, disputes) for key, each in asked.items())
        )
        return await self._decide(outcomes, disputes) if disputes else []

    async def _ask_another(
        self,
        outcomes: list[Outcome],
        operator: str,
        qtype: int,
        indexes: list[int],
        disputes: list[_Dispute],
    ) -> None:
        """A second opinion on what a resolver of `operator` said of these; adds to `disputes`."""
        if self._all_mute_but(operator):
            # Waiting for each of them in vain would take longer than all the rest.
            reason = "no resolver of another operator answers at present"
            for index in indexes:
                outcomes[index] = opinions.with_opinions(
                    outcomes[index], Agreement.UNCONFIRMED, (), reason=reason
                )
            return
        seconds = await self.engine.resolve(
            [outcomes[index].name for index in indexes],
            qtype=qtype,
            route=Route(avoid_operator=operator),
        )
        places = [
            place
            for place, index in enumerate(indexes)
            if seconds[place].verdict is Verdict.SERVFAIL
            and is_final(outcomes[index].verdict)
            and outcomes[index].verdict is not Verdict.BOGUS
        ]
        await self._unmask(seconds, places, qtype)
        agreed: dict[tuple[str, str], int] = {}
        operators = self._operators
        for index, second in zip(indexes, seconds, strict=True):
            first = outcomes[index]
            other = operators.get(second.resolver, "")
            if first[1] is second[1] and first.evidence is None and other != operator:
                # What is left here is nearly all there is.
                outcomes[index] = opinions.confirmed(first, second, other)
                pair = first.resolver, second.resolver
                agreed[pair] = agreed.get(pair, 0) + 1
                continue
            standing = opinions.compare(first, second)
            if other == operator:
                # All the others were taken out meanwhile.
                standing = Standing.UNCONFIRMED
            if standing is Standing.CONTRADICTED or standing is Standing.OPEN:
                disputes.append(_Dispute(index, qtype, [first, second]))
                continue
            reason = ""
            agreement = Agreement.UNCONFIRMED
            if standing is Standing.CONFIRMED:
                agreement = Agreement.CONFIRMED
                reason = opinions.difference(first, second)
                if is_final(first.verdict):
                    pair = first.resolver, second.resolver
                    agreed[pair] = agreed.get(pair, 0) + 1
            said = [self._opinion(second)]
            if standing is Standing.UNMASKED:
                said.insert(0, self._opinion(first))
                reason = f"{second.resolver} finds broken signatures"
                first = self._overrule(first, qtype, second)
            outcomes[index] = opinions.with_opinions(
                first,
                agreement,
                tuple(said),
                reason=reason,
                attempts=second.attempts,
                duration_us=second.duration_us,
            )
        for pair, times in agreed.items():
            for label in pair:
                self.canaries.agreed(label, times)

    async def _decide(self, outcomes: list[Outcome], disputes: list[_Dispute]) -> list[int]:
        """Ask a third, the authority, or both. Returns whose verdict is another now.

        Where usable answers exclude each other the authority decides; where there is but one, it
        has to be confirmed by a third operator or by the authority before it counts. What nobody
        can decide, the majority does.
        """
        before = {it.index: outcomes[it.index].verdict for it in disputes}
        hopeful = [it for it in disputes if not it.contradicted]
        await self._ask_a_third(hopeful)
        open_ = []
        for it in disputes:
            agreed = None if it.contradicted else opinions.settled(it.heard)
            if agreed is not None:
                self._conclude(outcomes, it, agreed, Agreement.CONFIRMED, "two of three agree")
            elif any(is_final(each.verdict) for each in it.heard):
                open_.append(it)
            else:
                self._vote(outcomes, it)
        open_ = await self._ask_authority(outcomes, open_)
        await self._ask_a_third([it for it in open_ if len(it.heard) < 3])
        for it in open_:
            self._vote(outcomes, it)
        return [index for index, verdict in before.items() if outcomes[index].verdict != verdict]

    async def _ask_a_third(self, disputes: Iterable[_Dispute]) -> None:
        """Add an opinion of a third operator, for those where there is one."""
        asked: dict[tuple[Resolver, int], list[_Dispute]] = {}
        for it in disputes:
            resolver = self._third(it)
            if resolver is not None:
                asked.setdefault((resolver, it.qtype), []).append(it)
        answers = await together(
            *(
                self.engine.resolve(
                    [it.heard[0].name for it in each],
                    qtype=qtype,
                    route=Route(resolver=resolver),
                )
                for (resolver, qtype), each in asked.items()
            )
        )
        for each, said in zip(asked.values(), answers, strict=True):
            for it, answer in zip(each, said, strict=True):
                it.heard.append(answer)

    async def _ask_authority(
        self, outcomes: list[Outcome], disputes: list[_Dispute]
    ) -> list[_Dispute]:
        """Let the authority decide. Returns what it left undecided."""
        if self._authority is None:
            return disputes
        left: list[_Dispute] = []
        for qtype in {it.qtype for it in disputes}:
            asked = [it for it in disputes if it.qtype == qtype]
            rulings = await self._authority.ask([it.heard[0].name for it in asked], qtype)
            for it, ruling in zip(asked, rulings, strict=True):
                if not self._rule(outcomes, it, ruling):
                    left.append(it)
        return left

    def _rule(self, outcomes: list[Outcome], dispute: _Dispute, ruling: Outcome) -> bool:
        """Apply what the authority said, if it said anything that decides."""
        heard = dispute.heard
        agreeing = [it for it in heard if it.verdict is ruling.verdict]
        decides = is_final(ruling.verdict) or (agreeing and ruling.verdict is not Verdict.TIMEOUT)
        if decides:
            # Resolvers give addresses near to us, and their own word for them.
            decided = agreeing[0] if agreeing else ruling
            self._testify(dispute, ruling)
            agreement, reason = Agreement.DECIDED_BY_AUTHORITY, "resolvers disagreed"
            self._conclude(outcomes, dispute, decided, agreement, reason)
        index = dispute.index
        outcome = outcomes[index]
        evidence, told = outcome.evidence or Evidence(), ruling.evidence or Evidence()
        outcomes[index] = outcome._replace(
            attempts=outcome.attempts + ruling.attempts,
            duration_us=outcome.duration_us + ruling.duration_us,
            evidence=replace(
                evidence,
                registered=told.registered,
                delegated=told.delegated,
                walk=told.walk,
            ),
        )
        return bool(decides)

    def _testify(self, dispute: _Dispute, ruling: Outcome) -> None:
        """Note who was right and who was wrong: a failure is nobody's lie."""
        if not is_final(ruling.verdict):
            return
        for it in dispute.heard:
            if it.resolver in self._resolvers and is_final(it.verdict):
                if it.verdict is ruling.verdict:
                    self.canaries.agreed(it.resolver)
                else:
                    self.canaries.disagreed(it.resolver)
                    self.canaries.wrong(it.resolver)

    def _vote(self, outcomes: list[Outcome], dispute: _Dispute) -> None:
        out = self._labels(ResolverState.QUARANTINED)
        trusted = [it for it in dispute.heard if it.resolver not in out]
        decided = opinions.majority(trusted or dispute.heard)
        if any(is_final(it.verdict) for it in dispute.heard):
            reason = "resolvers disagree, and the authority did not decide"
        else:
            reason = "resolvers fail in different ways"
        self._conclude(outcomes, dispute, decided, Agreement.DISPUTED, reason)
        if dispute.contradicted:
            for it in dispute.heard:
                if it.resolver in self._resolvers:
                    self.canaries.disagreed(it.resolver)

    def _conclude(
        self,
        outcomes: list[Outcome],
        dispute: _Dispute,
        decided: Outcome,
        agreement: Agreement,
        reason: str,
    ) -> None:
        first, *others = dispute.heard
        # With what the authority may have told by now.
        outcome = outcomes[dispute.index]
        if decided is not first:
            outcome = self._overrule(outcome, dispute.qtype, decided)
            others = dispute.heard
        outcomes[dispute.index] = opinions.with_opinions(
            outcome,
            agreement,
            tuple(self._opinion(it) for it in others),
            reason=reason,
            attempts=sum(it.attempts for it in dispute.heard[1:]),
            duration_us=sum(it.duration_us for it in dispute.heard[1:]),
        )

    def _overrule(self, outcome: Outcome, qtype: int, decided: Outcome) -> Outcome:
        """The outcome with what somebody else says of one type in the place of its own."""
        decided = decided._replace(
            name=outcome.name, attempts=outcome.attempts, duration_us=outcome.duration_us
        )
        known = outcome.evidence.records if outcome.evidence else ()
        if not known or decided.verdict in (Verdict.NXDOMAIN, Verdict.BOGUS):
            evidence = outcome.evidence
            if evidence is not None and known:
                evidence = replace(evidence, records=(records.record_of(qtype, decided),))
            return decided._replace(evidence=evidence)
        new = tuple(records.record_of(qtype, decided) if it.qtype == qtype else it for it in known)
        return records.combine(outcome, new)

    def _opinion(self, outcome: Outcome) -> Opinion:
        return opinions.opinion_of(outcome, self._operators.get(outcome.resolver, ""))

    def _third(self, dispute: _Dispute) -> Resolver | None:
        """A resolver of an operator who was not heard, one after the other."""
        heard = {self._operators.get(it.resolver) for it in dispute.heard}
        mute = self._mute()
        able = [
            it
            for label, it in self._resolvers.items()
            if it.operator not in heard and label not in mute
        ]
        self._turn += 1
        return able[self._turn % len(able)] if able else None

    def _all_mute_but(self, operator: str) -> bool:
        mute = self._mute()
        return all(label in mute for label, other in self._operators.items() if other != operator)

    def _mute(self) -> set[str]:
        """Labels of the resolvers that are of no use at present."""
        return self._labels(ResolverState.SUSPECT, ResolverState.QUARANTINED)

    def _labels(self, *states: ResolverState) -> set[str]:
        return {it.resolver for it in self.engine.stats().resolvers if it.state in states}


def _later(outcome: Outcome, other: Outcome) -> Outcome:
    """The outcome after another question about the name."""
    return outcome._replace(
        attempts=outcome.attempts + other.attempts,
        duration_us=outcome.duration_us + other.duration_us,
    )


def _complainant(evidence: Evidence) -> str:
    """The resolver that found fault with signatures; empty: none."""
    for it in evidence.opinions:
        if it.verdict is Verdict.SERVFAIL and it.ede in DNSSEC_ERRORS:
            return it.resolver
    return ""


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
