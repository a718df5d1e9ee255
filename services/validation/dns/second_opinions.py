"""What others say of a name, and who decides when they say otherwise."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.validation.dns import opinions, records
from services.validation.dns.authority import Authority
from services.validation.dns.canaries import Canaries
from services.validation.dns.engine import Engine
from services.validation.dns.opinions import Standing
from services.validation.dns.plan import OpinionPolicy, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.signatures import Signatures
from services.validation.dns.stats import ResolverState
from services.validation.dns.together import together
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import (
    Agreement,
    Evidence,
    Opinion,
    Outcome,
    Verdict,
    is_final,
)


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


class SecondOpinions:
    """Asks other operators, a third one and the authority. `canaries` hear how they compare."""

    def __init__(
        self, plan: Plan, engine: Engine, canaries: Canaries, signatures: Signatures
    ) -> None:
        examination = plan.examination
        self._engine = engine
        self._canaries = canaries
        self._signatures = signatures
        self._first = examination.qtypes[0]
        self._positive_percent = examination.positive_percent
        self._resolvers: dict[str, Resolver] = {str(it): it for it in plan.resolvers}
        self._operators = {label: it.operator for label, it in self._resolvers.items()}
        self.policy = opinions.policy_of(
            examination.opinion, len(frozenset(self._operators.values()))
        )
        self._authority = None
        if examination.delegations is not None:
            self._authority = Authority(examination.delegations, engine.resolve)
        # Whose turn it is to give a third opinion.
        self._turn = 0

    async def seek(self, outcomes: list[Outcome], indexes: Sequence[int]) -> list[int]:
        """Put those at `indexes` to other operators, as the policy says, and settle disagreement.

        Changes `outcomes`; returns the indexes of those whose verdict is another now.
        """
        if self.policy is OpinionPolicy.NONE:
            return []
        asked: dict[tuple[str, int], list[int]] = {}
        chosen = opinions.wanted(
            [outcomes[index] for index in indexes], self.policy, self._positive_percent
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
        agreed: Counter[str] = Counter()
        await together(
            *(
                self._ask_another(outcomes, *key, each, disputes, agreed)
                for key, each in asked.items()
            )
        )
        # All at once and before the disputes, that it can be told how large a part these are.
        for label, times in agreed.items():
            self._canaries.agreed(label, times)
        return await self._decide(outcomes, disputes) if disputes else []

    async def _ask_another(
        self,
        outcomes: list[Outcome],
        operator: str,
        qtype: int,
        indexes: list[int],
        disputes: list[_Dispute],
        agreed: Counter[str],
    ) -> None:
        """A second opinion on what a resolver of `operator` said of these.

        Adds to `disputes`, and counts in `agreed` what each resolver said that another confirms.
        """
        if self._all_mute_but(operator):
            # Waiting for each of them in vain would take longer than all the rest.
            reason = "no resolver of another operator answers at present"
            for index in indexes:
                outcomes[index] = opinions.with_opinions(
                    outcomes[index], Agreement.UNCONFIRMED, (), reason=reason
                )
            return
        seconds = await self._engine.resolve(
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
        await self._signatures.unmask(seconds, places, qtype)
        pairs: dict[tuple[str, str], int] = {}
        operators = self._operators
        for index, second in zip(indexes, seconds, strict=True):
            first = outcomes[index]
            other = operators.get(second.resolver, "")
            if first[1] is second[1] and first.evidence is None and other != operator:
                # What is left here is nearly all there is.
                outcomes[index] = opinions.confirmed(first, second, other)
                pair = first.resolver, second.resolver
                pairs[pair] = pairs.get(pair, 0) + 1
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
                    pairs[pair] = pairs.get(pair, 0) + 1
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
        for pair, times in pairs.items():
            for label in pair:
                agreed[label] += times

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
                self._engine.resolve(
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
                    self._canaries.agreed(it.resolver)
                else:
                    self._canaries.disagreed(it.resolver)
                    self._canaries.wrong(it.resolver)

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
                    self._canaries.disagreed(it.resolver)

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
        return {it.resolver for it in self._engine.stats().resolvers if it.state in states}
