"""From the names to the leads: which counts belong together, and where the names went. Pure.

A phase settles only names that the phase before lets through; leads are decided on for every name
that HTTP has settled, and say again why one was rejected. Counts belong to those of the phases
before when the results were made after theirs: after a rerun of DNS validation the pages that were
fetched for the run before say nothing of the names that resolve now, until they are fetched again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GENERATION, DNS, HTTP, LEADS = 1, 2, 3, 5
# The outcome that goes on, in every phase: generated; resolved; fetched; with a keyword; qualified.
PASSED = 1


@dataclass(frozen=True, slots=True)
class PhaseCounts:
    """A phase of a campaign and the names that the run settled whose results are shown."""

    phase: int
    # Names that its newest run has to settle; 0: not known yet.
    name_count: int
    # Revision from which on the results are shown; grows with the run.
    shown_revision: int
    # By outcome, those that occurred.
    outcomes: Mapping[int, int]

    @property
    def settled(self) -> int:
        return sum(self.outcomes.values())

    @property
    def passed(self) -> int:
        return self.outcomes.get(PASSED, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """One phase of the funnel."""

    phase: int
    name_count: int
    settled: int
    passed: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """So many names ended in a phase with this outcome."""

    phase: int
    outcome: int
    count: int


@dataclass(frozen=True, slots=True)
class Rejections:
    """name_count = pending + leads + the sum of all rejections."""

    name_count: int
    pending: int
    leads: int
    rejected: Sequence[Rejected]


def funnel(name_count: int, phases: Sequence[PhaseCounts]) -> list[Step]:
    """The phases in order, each with what it has found, whatever the others found meanwhile."""
    steps = []
    coming = name_count
    fetched = next((each.settled for each in phases if each.phase == HTTP), 0)
    for each in phases:
        # A phase that was never planned has to settle what the one before has let through so far.
        expected = each.name_count or coming
        if each.phase == GENERATION:
            expected = max(expected, name_count)
        elif each.phase == LEADS and not each.name_count:
            expected = fetched
        steps.append(Step(each.phase, max(expected, each.settled), each.settled, each.passed))
        coming = each.passed if each.phase != GENERATION else name_count
    return steps


def rejections(name_count: int, phases: Sequence[PhaseCounts]) -> Rejections:
    """Where the names went that are no leads.

    Balances by construction: a phase counts only while it settled no more names than came to it.
    """
    counted: list[PhaseCounts] = []
    for each in phases:
        if each.phase == GENERATION or not each.settled:
            continue
        if counted and each.shown_revision < counted[-1].shown_revision:
            # Of names that came by results which are not shown any more.
            break
        if each.phase == LEADS:
            # Of names that are not decided on yet, nothing is said meanwhile: those that HTTP has
            # rejected are among those that are.
            while counted and counted[-1].phase > DNS:
                counted.pop()
        if each.settled > (counted[-1].passed if counted else name_count):
            break
        counted.append(each)
    rejected = [
        Rejected(each.phase, outcome, count)
        for each in counted
        for outcome, count in each.outcomes.items()
        if outcome != PASSED
    ]
    rejected.sort(key=lambda one: (-one.count, one.phase, one.outcome))
    leads = counted[-1].passed if counted and counted[-1].phase == LEADS else 0
    pending = name_count - leads - sum(one.count for one in rejected)
    return Rejections(name_count, pending, leads, rejected)
