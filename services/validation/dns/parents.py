"""What a parent answers names with that do not exist. Pure: questions out, answers in.

Only the immediate parent is asked about. A wildcard that could have answered `a.b.example.com`,
be it `*.b.example.com` or `*.example.com`, answers any other child of `b.example.com` too
(RFC 4592: the closest encloser of both is the same), so a random child tells of wildcards at every
level.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import NamedTuple, TypeVar

from services.validation.dns import wire
from services.validation.dns.suffixes import is_shared
from services.validation.dns.verdict import Outcome, Verdict, WildcardProof

# Random children asked about before a parent passes for one without a wildcard, each beginning as
# another of the names at hand: some answers depend on the first character (BBOT#527).
ORDINARY_PROBES = 3

_ABSENT = (Verdict.NXDOMAIN, Verdict.NO_DATA)

T = TypeVar("T")


class Question(NamedTuple):
    name: str
    qtype: int
    # None of this operator's resolvers, if there are others.
    avoid: str = ""


# Yields questions, is sent their answers in the same order, returns a result.
Inquiry = Generator[list[Question], list[Outcome], T]


class Finding(NamedTuple):
    """What is known of a name that resolves below a parent which is not an ordinary one."""

    wildcard: bool
    # In words.
    reason: str


# Followed by the name that has the wildcard.
SAME = "the same answer comes from the wildcard of"
VARYING = "nothing shows that the name exists, and any answer may come from the wildcard of"


UNCHECKED = Finding(False, "could not be checked for a wildcard")


def answers_of(outcome: Outcome) -> frozenset[str]:
    """What makes two answers the same: the alias if there is one, else the addresses.

    Addresses behind one alias vary. An alias may be made of the name: `*` stands for its label.
    """
    if not outcome.chain:
        return frozenset(outcome.addresses)
    label = outcome.name.partition(".")[0]
    target = outcome.chain[0]
    return frozenset((".".join("*" if it == label else it for it in target.split(".")),))


def needed(distinct: int, limit: int) -> int:
    """Answers to be seen before `distinct` different ones pass for all there are.

    One more, as frequent as the others, would then have been missed twice in 10,000 times.
    """
    return min(14, limit) if distinct <= 1 else 8 * distinct + 6


class Sample:
    """Answers about random children that begin with one character."""

    __slots__ = ("answered", "asked", "kinds", "known")

    def __init__(self) -> None:
        # Questions, and answers with addresses.
        self.asked = self.answered = 0
        # Whether any answer was final.
        self.known = False
        self.kinds: set[frozenset[str]] = set()


class Parent:
    """What has been found out about the children of one name, for one type of address."""

    __slots__ = (
        "_avoid",
        "_confirmed",
        "_label",
        "_limit",
        "_operator_of",
        "_provable",
        "_qtype",
        "_samples",
        "_shared",
        "above",
        "answers",
        "denials",
        "inventions",
        "name",
        "placed",
        "probes",
    )

    def __init__(
        self,
        name: str,
        qtype: int,
        limit: int,
        operator_of: dict[str, str],
        label: Callable[[str], str],
    ) -> None:
        """`limit`: questions per first character; `label` makes a random one with that start."""
        self.name = name
        self._qtype = qtype
        self._limit = limit
        # By the resolver's label; empty where there is one operator alone.
        self._operator_of = operator_of
        self._label = label
        self._shared = is_shared(name)
        self._samples: dict[str, Sample] = {}
        # Whether two operators showed the wildcard, where there are two.
        self._confirmed = not operator_of
        # An operator that invents answers.
        self._avoid = ""
        # Whether existence can be proven; None: not tried.
        self._provable: bool | None = None
        # All that random children were answered with.
        self.answers: set[str] = set()
        self.probes = 0
        # Resolvers that said of a random child that there is none, and those that alone gave one
        # an address; since last looked at.
        self.denials: list[str] = []
        self.inventions: list[str] = []
        # The wildcard of the registry, where it is that which shows here, for the domain does not
        # exist; and whether that has been looked into.
        self.above: WildcardProof | None = None
        self.placed = False

    @property
    def ordinary(self) -> bool:
        """Whether no child needs to be asked about any more."""
        known = sum(sample.known for sample in self._samples.values())
        return not self.answers and known >= ORDINARY_PROBES

    @property
    def unknown(self) -> bool:
        """Whether questions about some children were never answered, or a wildcard not confirmed
        by who could have."""
        unconfirmed = bool(self.answers) and not self._confirmed
        return unconfirmed or any(not sample.known for sample in self._samples.values())

    def proof(self) -> WildcardProof:
        if self.above is not None:
            return self.above
        return WildcardProof(self.name, tuple(sorted(self.answers)), self.probes)

    # Finding out

    def learn(self, outcomes: Sequence[Outcome]) -> Inquiry[None]:
        """Ask until `outcomes`, which resolve and are children of this, can be judged."""
        strangers: dict[str, list[frozenset[str]]] = {}
        for outcome in outcomes:
            strangers.setdefault(outcome.name[0], []).append(answers_of(outcome))
        new = [first for first in strangers if first not in self._samples]
        if not self.answers:
            new = new[: ORDINARY_PROBES - len(self._samples)]
        if new:
            yield from self._probe(new)
        if not self.answers:
            return
        # The others are asked about as well, once it is known that answers are made up.
        rest = [first for first in strangers if first not in self._samples]
        if rest:
            yield from self._probe(rest)
        while True:
            wanted = [
                first
                for first, kinds in strangers.items()
                if not all(kind & self.answers for kind in kinds)
                for _ in range(self._missing(first))
            ]
            if not wanted:
                break
            yield from self._probe(wanted)
        if self._provable is None:
            for first, kinds in strangers.items():
                if not all(self._differs(first, kind) for kind in kinds):
                    yield from self._try_proof(first)
                    break

    def judge(self, outcomes: Sequence[Outcome]) -> Inquiry[list[Finding | None]]:
        """A finding each; None: as ordinary as any other name. Only after `learn`."""
        findings: list[Finding | None] = [None] * len(outcomes)
        doubtful: list[int] = []
        for index, outcome in enumerate(outcomes):
            kind = answers_of(outcome)
            if kind & self.answers:
                doubtful.append(index)
            elif not self._heard(outcome.name[0]):
                findings[index] = UNCHECKED
            elif self.answers:
                if self._settled(outcome.name[0]):
                    findings[index] = Finding(False, f"differs from the wildcard of {self.name}")
                else:
                    doubtful.append(index)
        if doubtful:
            proven = yield from self._exist([outcomes[index] for index in doubtful])
            for index, exists in zip(doubtful, proven, strict=True):
                findings[index] = self._weigh(answers_of(outcomes[index]), exists)
        return findings

    def _heard(self, first: str) -> bool:
        """Whether anything is known of children with this first character, or as good as that."""
        sample = self._samples.get(first)
        if sample is not None:
            return sample.known
        return any(it.known for it in self._samples.values())

    def _differs(self, first: str, kind: frozenset[str]) -> bool:
        return not kind & self.answers and self._settled(first)

    def _weigh(self, kind: frozenset[str], exists: bool | None) -> Finding:
        if exists:
            how = "has a zone" if self._shared else "hides it from names below, so it has records"
            return Finding(False, f"below the wildcard of {self.name}: {how} of its own")
        if kind & self.answers:
            return Finding(True, SAME)
        if exists is None and self._provable:
            return UNCHECKED
        return Finding(True, VARYING)

    # Samples

    def _probe(self, firsts: Sequence[str]) -> Inquiry[None]:
        """Ask about a random child for each of `firsts`, its first character."""
        names = [f"{self._label(first)}.{self.name}" for first in firsts]
        answers = yield self._ask(firsts, names, [self._avoid] * len(names))
        answers = yield from self._repeat(firsts, answers, self._is_no_answer)
        if not self._confirmed:
            answers = yield from self._confirm(firsts, answers)
        for first, answer in zip(firsts, answers, strict=True):
            self._take(first, answer)

    def _confirm(self, firsts: Sequence[str], answers: list[Outcome]) -> Inquiry[list[Outcome]]:
        """What another operator's resolvers say where a random child was answered.

        The word of one operator against another's is none: its resolvers may invent answers.
        """
        again = yield from self._repeat(firsts, answers, self._resolves)
        for place, (first, one, other) in enumerate(zip(firsts, answers, again, strict=True)):
            if other is one:
                continue
            if other.verdict is Verdict.RESOLVED:
                self._confirmed = True
                # Answers may depend on who asks.
                self._take(first, one)
            elif other.verdict in _ABSENT:
                self.inventions.append(one.resolver)
                self._avoid = self._operator_of.get(one.resolver, "")
            else:
                # Nobody else can tell: as where there is one operator alone.
                again[place] = one
        return again

    def _take(self, first: str, answer: Outcome) -> None:
        sample = self._samples[first]
        if answer.verdict is Verdict.RESOLVED:
            kind = answers_of(answer)
            sample.kinds.add(kind)
            sample.answered += 1
            self.answers |= kind
        elif answer.verdict in _ABSENT:
            self.denials.append(answer.resolver)
        sample.known |= not self._is_no_answer(answer)

    def _repeat(
        self, firsts: Sequence[str], answers: list[Outcome], which: Callable[[Outcome], bool]
    ) -> Inquiry[list[Outcome]]:
        """`answers`, of which some are asked for again at another operator's resolvers."""
        if not self._operator_of:
            return answers
        places = [place for place, answer in enumerate(answers) if which(answer)]
        if not places:
            return answers
        again = yield self._ask(
            [firsts[place] for place in places],
            [answers[place].name for place in places],
            [self._operator_of.get(answers[place].resolver, "") for place in places],
        )
        answers = answers[:]
        for place, answer in zip(places, again, strict=True):
            answers[place] = answer
        return answers

    def _ask(
        self, firsts: Iterable[str], names: Sequence[str], avoid: Sequence[str]
    ) -> list[Question]:
        for first in firsts:
            self._samples.setdefault(first, Sample()).asked += 1
        self.probes += len(names)
        return [Question(name, self._qtype, no) for name, no in zip(names, avoid, strict=True)]

    @staticmethod
    def _resolves(answer: Outcome) -> bool:
        return answer.verdict is Verdict.RESOLVED

    @staticmethod
    def _is_no_answer(answer: Outcome) -> bool:
        return answer.verdict is not Verdict.RESOLVED and answer.verdict not in _ABSENT

    def _settled(self, first: str) -> bool:
        """Whether children beginning with `first` are answered with what was seen, only."""
        sample = self._samples.get(first)
        if sample is None or sample.asked < min(ORDINARY_PROBES, self._limit):
            return False
        if not sample.kinds:
            return True
        return self._alike(sample) >= needed(len(sample.kinds), self._limit)

    def _alike(self, sample: Sample) -> int:
        """Answers seen of all children that are answered alike, whatever they begin with."""
        return sum(it.answered for it in self._samples.values() if it.kinds == sample.kinds)

    def _missing(self, first: str) -> int:
        """How many more to ask about next; 0: settled, or it never will be."""
        sample = self._samples[first]
        left = self._limit - sample.asked
        if not sample.known or self._settled(first) or left <= 0:
            return 0
        if sample.asked < ORDINARY_PROBES:
            return min(ORDINARY_PROBES - sample.asked, left)
        lacking = needed(len(sample.kinds), self._limit) - self._alike(sample)
        return lacking if lacking <= left else 0

    # Proof that a name exists although a wildcard would explain it

    def _try_proof(self, first: str) -> Inquiry[None]:
        """Whether names that do not exist lack what proves existence, as they should."""
        name = f"{self._label(first)}.{self.name}"
        (answer,) = yield [self._proof_question(name)]
        if not self._is_no_answer(answer):
            self._provable = self._shows(name, answer) is False

    def _prove(self, outcomes: Sequence[Outcome]) -> Inquiry[list[bool | None]]:
        if not self._provable:
            return [None] * len(outcomes)
        answers = yield [self._proof_question(outcome.name) for outcome in outcomes]
        return [
            self._shows(outcome.name, answer)
            for outcome, answer in zip(outcomes, answers, strict=True)
        ]

    def _exist(self, outcomes: Sequence[Outcome]) -> Inquiry[list[bool | None]]:
        """Which exist on their own; None: no answer."""
        proven = yield from self._prove(outcomes)
        if self._shared:
            return proven
        # A zone of its own, with a wildcard of its own, answers its children as well.
        left = [
            place
            for place, outcome in enumerate(outcomes)
            if not proven[place] and not answers_of(outcome) & self.answers
        ]
        if left:
            names = [outcomes[place].name for place in left]
            control = f"{self._label(names[0][0])}.{self.name}"
            of_control, *answers = yield [
                Question(name, wire.SOA, self._avoid) for name in (control, *names)
            ]
            if self._has_zone(control, of_control) is False:
                for place, name, answer in zip(left, names, answers, strict=True):
                    proven[place] = self._has_zone(name, answer) or proven[place]
        return proven

    def _proof_question(self, name: str) -> Question:
        """Below a suffix that others share: a zone of its own. Elsewhere: a random child of it.

        A wildcard does not reach below a name that exists (RFC 4592), so a child that is not
        answered proves its parent.
        """
        if self._shared:
            return Question(name, wire.SOA, self._avoid)
        return Question(f"{self._label(name[0])}.{name}", self._qtype, self._avoid)

    def _shows(self, name: str, answer: Outcome) -> bool | None:
        """Whether the answer to `_proof_question` is one about a name that exists."""
        if self._shared:
            return self._has_zone(name, answer)
        return None if self._is_no_answer(answer) else answer.verdict in _ABSENT

    def _has_zone(self, name: str, answer: Outcome) -> bool | None:
        if self._is_no_answer(answer):
            return None
        # Behind an alias it would be the zone of the alias.
        own = answer.verdict is Verdict.RESOLVED and not answer.chain
        return own or answer.authority == name
