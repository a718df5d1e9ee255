"""Names whose truth is known, asked through bad resolvers, and what is wrong with the outcomes.

Used at 100,000 names by a test and at a million by a bench.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from services.sandbox.truth import TLD_WILDCARDS, Behaviour, Mix, Truth, World
from services.validation.dns import facts, wire
from services.validation.dns.plan import Delegations, Examination, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Agreement, Outcome, Verdict
from tests.load.processes import server

SEED = 11
QTYPES = (wire.A, wire.AAAA)
TLDS = ("com", "net", "org")
PARKED = tuple(sorted(TLD_WILDCARDS))
WORDS = ("www", "mail", "api", "shop", "dev", "blog", "cdn", "m", "static", "vpn", "hop1", "ns1")
# Of UDP questions, at every resolver.
FAULTS = ("--loss", "0.05", "--servfail", "0.05", "--truncate", "0.05", "--late", "0.02")
# Of the names that do not exist, those that the lying resolver gives an address.
LYING = "0.3"
SHOWN = 20


def names(count: int) -> Iterator[str]:
    """Seven in ten are domains, one is below a top-level wildcard, two are below a domain.

    Of these two, one has many siblings: some of their parents are wildcards.
    """
    for number in range(count):
        kind = number % 10
        if kind < 7:
            yield f"name{number}.{TLDS[number % 3]}"
        elif kind == 7:
            yield f"name{number}.{PARKED[number // 10 % len(PARKED)]}"
        else:
            parent = number // 10 if kind == 8 else number // 10 % 2000
            yield f"{WORDS[number // 7 % len(WORDS)]}.name{parent}.{TLDS[parent % 3]}"


@contextmanager
def bad_resolvers(*, processes: int = 1) -> Iterator[Plan]:
    """A plan for three resolvers of three operators, the last of which lies, and the authority.

    With more than one process the first three have a resolver each.
    """
    common = ("--die-with-parent", "--seed", str(SEED), *FAULTS)
    with ExitStack() as stack:
        lying = ("--lying", LYING)
        if processes == 1:
            flags = ("--dns-servers", "3", "--liars", "1", "--authority", *lying)
            said = json.loads(stack.enter_context(server("services.sandbox", *common, *flags)))
            addresses, root = said["dns"], said["authority"]["roots"][0]
        else:
            each = (("--authority",), ("--fault-seed", "2"), ("--fault-seed", "3", *lying))
            started = [
                json.loads(stack.enter_context(server("services.sandbox", *common, *flags)))
                for flags in each
            ]
            addresses = [said["dns"][0] for said in started]
            root = started[0]["authority"]["roots"][0]
        host, _, port = root.rpartition(":")
        yield Plan(
            tuple(
                Resolver(
                    text.rpartition(":")[0], int(text.rpartition(":")[2]), operated_by=operator
                )
                for text, operator in zip(addresses, ("one", "two", "three"), strict=True)
            ),
            EngineSettings(timeout=0.5),
            # Without canaries, which would keep the liar out: who is wrong is found name by name.
            Examination(
                qtypes=QTYPES,
                delegations=Delegations(((host, int(port)),), int(port)),
                canaries=(),
            ),
        )


@dataclass(slots=True)
class Account:
    """Outcomes against the truth. A name counts as wrong once, whatever is wrong with it."""

    world: World = field(default_factory=lambda: World(SEED, Mix()))
    seen: int = 0
    wrong: int = 0
    # Questions about the names themselves, of all types.
    questions: int = 0
    # What is wrong -> how often; the first of each, in words.
    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    agreements: Counter[Agreement] = field(default_factory=Counter)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    # Names of whose domain it is not known whether it is registered.
    unknown: int = 0

    def take(self, asked: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        """Compare the outcomes of a call."""
        for name, outcome in zip(asked, outcomes, strict=True):
            known = self.world.truth(name)
            self.seen += 1
            self.questions += outcome.attempts
            self.verdicts[outcome.verdict] += 1
            if outcome.evidence:
                self.agreements[outcome.evidence.agreement] += 1
            registered, delegated = facts.of(outcome)
            self.unknown += registered is None
            mistakes = [
                *_mistakes(name, outcome, known),
                *(("facts",) if (not registered, not delegated) != (not known.registered,) * 2
                  and registered is not None and delegated is not None else ()),
            ]  # fmt: skip
            if mistakes:
                self.wrong += 1
                self.kinds.update(mistakes)
                if len(self.examples) < SHOWN:
                    self.examples.append(f"{', '.join(mistakes)}: {known}; {outcome}")

    def __str__(self) -> str:
        return "\n".join([f"{self.wrong} wrong of {self.seen}: {dict(self.kinds)}", *self.examples])


def _mistakes(name: str, outcome: Outcome, known: Truth) -> Iterator[str]:
    if outcome.name != name:
        yield "another name"
    due = known.verdict_of(QTYPES)
    if outcome.verdict != due:
        yield f"{outcome.verdict.name} instead of {Verdict(due).name} ({known.behaviour.name})"
        return
    found = set(outcome.addresses)
    right = set(known.addresses_of(QTYPES))
    if not (found and found <= right if known.shown else found == right):
        yield "addresses"
    if found and outcome.ttl != known.ttl:
        yield "ttl"
    if outcome.chain != known.chain and known.behaviour is not Behaviour.LOOP:
        yield "chain"
    if due in (Verdict.NXDOMAIN, Verdict.NO_DATA) and outcome.authority != known.zone:
        yield "authority"
    evidence = outcome.evidence
    if due == Verdict.WILDCARD:
        proof = evidence.wildcard if evidence else None
        if proof is None or not name.endswith("." + proof.parent):
            yield "wildcard"
    if evidence is None:
        if found:
            yield "no evidence"
        return
    if evidence.agreement is Agreement.DISPUTED:
        yield "disputed"
    for record in evidence.records:
        if record.verdict == Verdict.RESOLVED:
            told, given = set(record.records), set(known.records(record.qtype))
            if not (told <= given if known.shown else told == given):
                yield "records"
