"""How a page is made: which index leads, how much may be looked at, and what counters know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.page_plan import (
    DomainFilter,
    Kind,
    Order,
    Sizes,
    after_prefix,
    allowance,
    exact_total,
    sources,
    supposed_share,
    window,
)

SIZES = Sizes(1_000, [450, 500, 0, 0, 0, 30], [300, 0, 150], [100, 190, 10], [40, 250], 70)


def test_the_shortest_index_leads_and_the_names_come_last() -> None:
    chosen = DomainFilter(dns_verdicts=(1,), http_verdicts=(3,), lead_statuses=(1,), tlds=("com",))
    found = sources(chosen, SIZES)
    assert [source.kind for source in found] == [Kind.STATUS, Kind.HTTP, Kind.DNS, Kind.NAMES]
    assert [source.size for source in found] == [40, 150, 450, 1_000]


@pytest.mark.parametrize(
    ("chosen", "order", "total"),
    [
        (DomainFilter(), Order.POSITION, 1_000),
        (DomainFilter(), Order.SCORE, 290),
        (DomainFilter(), Order.SETTLE_TIME, 980),
        (DomainFilter(dns_verdicts=(1, 6)), Order.NAME, 480),
        (DomainFilter(dns_verdicts=(6,)), Order.SETTLE_TIME, 30),
        (DomainFilter(dns_verdicts=(6,)), Order.SCORE, None),
        (DomainFilter(dns_pending=True), Order.POSITION, 20),
        (DomainFilter(dns_pending=True), Order.SCORE, 0),
        (DomainFilter(http_verdicts=(3,)), Order.POSITION, 150),
        (DomainFilter(lead_statuses=(2,)), Order.NAME, 250),
        (DomainFilter(lead_reasons=(1, 2)), Order.NAME, 290),
        (DomainFilter(tlds=("com",)), Order.POSITION, 70),
        (DomainFilter(keywords=("a",)), Order.POSITION, None),
        (DomainFilter(dns_verdicts=(1,), tlds=("com",)), Order.POSITION, None),
        (DomainFilter(lead_statuses=(1,), lead_reasons=(1,)), Order.POSITION, None),
        (DomainFilter(min_score=0), Order.POSITION, None),
    ],
)
def test_totals_are_exact_where_one_counter_knows(
    chosen: DomainFilter, order: Order, total: int | None
) -> None:
    assert exact_total(chosen, order, SIZES) == total


@given(
    need=st.integers(1, 1_001),
    share=st.floats(0.001, 1),
    order=st.sampled_from(Order),
    tables=st.integers(0, 6),
    kind=st.sampled_from([source.kind for source in sources(DomainFilter(keywords=("a",)), SIZES)]),
)
def test_no_window_is_larger_than_a_page_may_look_at(
    need: int, share: float, order: Order, tables: int, kind: Kind
) -> None:
    source = next(s for s in sources(DomainFilter(keywords=("a",)), SIZES) if s.kind is kind)
    allowed = allowance(order, source, SIZES, tables)
    assert 0 < allowed <= 8_000
    assert 0 < window(need, share, allowed) <= allowed


def test_who_failed_a_phase_has_hardly_anything_of_a_later_one() -> None:
    chosen = DomainFilter(dns_verdicts=(6,), http_verdicts=(1,))
    assert supposed_share(chosen, SIZES, sources(chosen, SIZES)[0]) < 0.05


@given(
    prefix=st.text("abcxyz019.-_", min_size=1, max_size=9), rest=st.text("abcz019.-_", max_size=9)
)
def test_all_that_begins_so_is_ahead_of_what_comes_behind_the_prefix(
    prefix: str, rest: str
) -> None:
    assert prefix <= prefix + rest < after_prefix(prefix)
