"""Names by top-level domain, whichever way they are counted."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.tlds import tld_counts

OUTCOMES = {"RESOLVED": 1, "NXDOMAIN": 2, "NO_DATA": 3}
NAMES = st.builds(
    "{}.{}".format,
    st.text("ab-.", min_size=1, max_size=5),
    st.sampled_from(["com", "om", "net", "co.uk", "xn--p1ai", "m"]),
)


@given(st.lists(st.tuples(NAMES, st.sampled_from(list(OUTCOMES))), max_size=60), st.integers(1, 40))
def test_every_line_is_counted_once(lines: list[tuple[str, str]], repeated: int) -> None:
    lines *= repeated
    expected: dict[str, Counter[int]] = {}
    for name, outcome in lines:
        expected.setdefault(name.rpartition(".")[2], Counter())[OUTCOMES[outcome]] += 1
    text = "".join(f"{name} {outcome}\n" for name, outcome in lines)
    assert tld_counts(text, OUTCOMES) == expected


def test_many_top_level_domains_are_counted_too() -> None:
    names = [f"name.tld{n % 1_500}" for n in range(5_000)]
    counts = tld_counts("".join(f"{name} RESOLVED\n" for name in names), OUTCOMES)
    assert counts == {f"tld{n}": {1: 4 if n < 500 else 3} for n in range(1_500)}


def test_one_that_no_sample_has_seen_is_not_missed() -> None:
    names = ["name.com"] * 5_000
    names[1234] = "name.rare"
    counts = tld_counts("".join(f"{name} NO_DATA\n" for name in names), OUTCOMES)
    assert counts == {"com": {3: 4_999}, "rare": {3: 1}}


def test_a_name_of_one_label_is_its_own() -> None:
    assert tld_counts("localhost NXDOMAIN\n", OUTCOMES) == {"localhost": {2: 1}}


def test_nothing_is_nothing() -> None:
    assert tld_counts("", OUTCOMES) == {}
