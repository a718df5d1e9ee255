"""Where the names went, as a matter of arithmetic."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.query.funnel import PhaseCounts, Rejected, Step, funnel, rejections

GENERATION, DNS, HTTP, ANALYSIS, LEADS = range(1, 6)

phases = st.lists(
    st.builds(
        PhaseCounts,
        phase=st.integers(1, 5),
        name_count=st.integers(0, 100),
        shown_revision=st.integers(0, 5),
        outcomes=st.dictionaries(st.integers(1, 11), st.integers(1, 30), max_size=4),
    ),
    unique_by=lambda each: each.phase,
    max_size=5,
).map(lambda some: sorted(some, key=lambda each: each.phase))


@st.composite
def regular(draw: st.DrawFn) -> tuple[int, list[PhaseCounts]]:
    """A campaign in order: each phase settles some of the names that the one before let through;
    leads are decided on for some of those that HTTP has settled."""
    name_count = coming = draw(st.integers(0, 1_000))
    fetched = None
    made = [PhaseCounts(GENERATION, name_count, 1, {1: name_count} if name_count else {})]
    for phase in draw(st.sets(st.integers(DNS, LEADS)).map(sorted)):
        if phase == LEADS and fetched is not None:
            coming = fetched
        settled = draw(st.integers(0, coming))
        passed = draw(st.integers(0, settled))
        outcomes = {outcome: n for outcome, n in ((1, passed), (3, settled - passed)) if n}
        made.append(PhaseCounts(phase, coming, phase, outcomes))
        coming = passed if settled else coming
        if phase == HTTP and settled:
            fetched = settled
    return name_count, made


@given(st.integers(0, 100), phases)
def test_every_name_is_a_lead_or_rejected_or_pending_whatever_the_counts(
    name_count: int, some: list[PhaseCounts]
) -> None:
    told = rejections(name_count, some)
    assert told.pending >= 0
    assert told.leads >= 0
    assert (
        told.name_count
        == name_count
        == told.pending + told.leads + sum(each.count for each in told.rejected)
    )


@given(regular())
def test_in_a_campaign_in_order_every_rejection_counts(made: tuple[int, list[PhaseCounts]]) -> None:
    name_count, some = made
    told = rejections(name_count, some)
    decided = any(each.phase == LEADS and each.settled for each in some)
    expected = {
        (each.phase, outcome, count)
        for each in some[1:]
        if not (decided and each.phase in {HTTP, ANALYSIS})
        for outcome, count in each.outcomes.items()
        if outcome != 1
    }
    assert {(each.phase, each.outcome, each.count) for each in told.rejected} == expected
    assert told.leads == sum(each.passed for each in some if each.phase == LEADS)
    assert [each.count for each in told.rejected] == sorted(
        (each.count for each in told.rejected), reverse=True
    )


def test_results_for_a_run_that_is_not_shown_any_more_do_not_count() -> None:
    dns, http = PhaseCounts(DNS, 10, 5, {1: 6, 2: 4}), PhaseCounts(HTTP, 6, 8, {1: 2, 9: 4})
    fresh = rejections(10, [dns, http])
    assert (fresh.pending, fresh.rejected) == (2, [Rejected(DNS, 2, 4), Rejected(HTTP, 9, 4)])

    rerun = rejections(10, [replace(dns, shown_revision=9, outcomes={1: 5, 2: 5}), http])
    assert (rerun.pending, rerun.rejected) == (5, [Rejected(DNS, 2, 5)])


def test_a_decision_on_names_that_were_rejected_before_is_not_counted_twice() -> None:
    """Whoever decides on all pages says of those without a keyword that they have none."""
    told = rejections(
        10,
        [
            PhaseCounts(DNS, 10, 1, {1: 6, 2: 4}),
            PhaseCounts(ANALYSIS, 6, 2, {1: 3, 2: 3}),
            PhaseCounts(LEADS, 6, 3, {1: 2, 2: 1, 3: 3}),
        ],
    )
    assert (told.leads, told.pending) == (2, 0)
    assert told.rejected == [Rejected(DNS, 2, 4), Rejected(LEADS, 3, 3), Rejected(LEADS, 2, 1)]


def test_while_leads_are_decided_on_the_others_are_pending() -> None:
    """Of the names decided on some were rejected by HTTP already: which ones, no counter says."""
    some = [
        PhaseCounts(DNS, 10, 1, {1: 8, 2: 2}),
        PhaseCounts(HTTP, 8, 2, {1: 6, 9: 2}),
        PhaseCounts(ANALYSIS, 6, 3, {1: 5, 2: 1}),
    ]
    before = rejections(10, some)
    assert (before.pending, sum(each.count for each in before.rejected)) == (5, 5)

    told = rejections(10, [*some, PhaseCounts(LEADS, 8, 4, {1: 1, 9: 2})])
    assert (told.leads, told.pending) == (1, 5)
    assert told.rejected == [Rejected(DNS, 2, 2), Rejected(LEADS, 9, 2)]


def test_every_name_that_was_fetched_comes_to_the_leads() -> None:
    some = [
        PhaseCounts(HTTP, 8, 2, {1: 6, 9: 2}),
        PhaseCounts(ANALYSIS, 6, 3, {1: 5, 2: 1}),
        PhaseCounts(LEADS, 0, 0, {}),
    ]
    assert funnel(8, some)[-1] == Step(LEADS, 8, 0, 0)


def test_the_funnel_tells_of_each_phase_what_came_and_what_went_on() -> None:
    some = [
        PhaseCounts(GENERATION, 0, 1, {1: 10}),
        PhaseCounts(DNS, 10, 2, {1: 6, 2: 2}),
        PhaseCounts(HTTP, 0, 0, {}),
    ]
    assert funnel(10, some) == [
        Step(GENERATION, 10, 10, 10),
        Step(DNS, 10, 8, 6),
        Step(HTTP, 6, 0, 0),
    ]
