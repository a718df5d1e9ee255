"""Patterns as numbered sets of names."""

from itertools import islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.campaign.pattern import Pattern, PatternType, parse
from services.chassis.domain_name import explain
from services.chassis.errors import FieldViolation


def pattern(type: str = "PREFIX", **changed: object) -> Pattern:
    made = attempt(type, **changed)
    assert isinstance(made, Pattern), made
    return made


def refused(type: str = "PREFIX", **changed: object) -> list[FieldViolation]:
    made = attempt(type, **changed)
    assert isinstance(made, list), made
    return made


def attempt(type: str, **changed: object) -> Pattern | list[FieldViolation]:
    source: dict[str, object] = {
        "prefix_length": 2 if type in {"PREFIX", ""} else int(type == "BOTH"),
        "suffix_length": int(type != "PREFIX"),
        "character_set": "abc",
        "constant": "x",
        "tlds": [".com"],
    }
    return parse(type=type, **(source | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("type", "offset", "name"),
    [
        ("PREFIX", 0, "aax.com"),
        ("PREFIX", 1, "abx.com"),
        ("PREFIX", 3, "bax.com"),
        ("PREFIX", 8, "ccx.com"),
        ("BOTH", 0, "axa.com"),
        ("BOTH", 5, "bxc.com"),
        ("SUFFIX", 2, "xc.com"),
    ],
)
def test_known_offsets_give_known_names(type: str, offset: int, name: str) -> None:
    made = pattern(type)

    assert made.name(offset) == name
    assert made.offset(name) == offset


def test_the_tld_is_the_fastest_digit() -> None:
    made = pattern("SUFFIX", tlds=[".com", ".co.uk"])

    assert made.combinations == 6
    assert [made.name(offset) for offset in range(6)] == [
        "xa.com",
        "xa.co.uk",
        "xb.com",
        "xb.co.uk",
        "xc.com",
        "xc.co.uk",
    ]


def test_the_hyphen_is_left_out_only_where_it_would_stand_at_an_edge() -> None:
    made = pattern("BOTH", character_set="a-", constant="", prefix_length=1, suffix_length=2)

    assert [made.name(offset) for offset in range(made.combinations)] == ["aaa.com", "a-a.com"]


def test_a_hyphen_next_to_the_constant_is_a_combination() -> None:
    made = pattern("PREFIX", character_set="a-")

    assert [made.name(offset) for offset in range(made.combinations)] == ["aax.com", "a-x.com"]


def test_repeated_characters_count_once_in_the_order_given() -> None:
    made = pattern("SUFFIX", character_set="bBab0a")

    assert [made.name(offset) for offset in range(made.combinations)] == [
        "xb.com",
        "xa.com",
        "x0.com",
    ]


def test_no_variable_character_makes_one_name_per_tld() -> None:
    made = pattern("PREFIX", prefix_length=0, tlds=[".com", ".org"])

    assert [made.name(offset) for offset in range(made.combinations)] == ["x.com", "x.org"]


def test_unicode_tld_and_constant_become_a_labels() -> None:
    made = pattern("PREFIX", prefix_length=0, constant="Bücher", tlds=[".рф"])

    assert made.name(0) == "xn--bcher-kva.xn--p1ai"


def test_upper_case_is_folded_everywhere() -> None:
    made = pattern("PREFIX", character_set="ABC", constant="X", tlds=[".COM"])

    assert made.name(1) == "abx.com"


@pytest.mark.parametrize("offset", [-1, 9])
def test_an_offset_outside_is_refused(offset: int) -> None:
    with pytest.raises(IndexError):
        pattern().name(offset)


@pytest.mark.parametrize(
    "name", ["", "aax", "aax.org", "aay.com", "dax.com", "ax.com", "aaax.com", "aax.com."]
)
def test_a_name_of_another_pattern_has_no_offset(name: str) -> None:
    with pytest.raises(ValueError, match=r"not of this pattern|not found|argument 2"):
        pattern().offset(name)


def test_a_pattern_may_have_more_names_than_64_bits_count() -> None:
    made = pattern("PREFIX", prefix_length=62, character_set="abcdefghijklmnopqrstuvwxyz")

    assert made.combinations == 26**62
    assert made.name(26**62 - 1) == "z" * 62 + "x.com"
    assert next(iter(made.names(26**62 - 1, 1))) == ["z" * 62 + "x.com"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prefix_length": -1}, "prefix_length"),
        ({"prefix_length": 64}, "prefix_length"),
        ({"prefix_length": 2**31 - 1}, "prefix_length"),
        ({"suffix_length": 1}, "suffix_length"),
        ({"character_set": ""}, "character_set"),
        ({"character_set": "a_b"}, "character_set"),
        ({"character_set": "äb"}, "character_set"),
        ({"character_set": "-"}, "character_set"),
        ({"constant": "a.b"}, "constant"),
        ({"constant": "x-"}, "constant"),
        ({"constant": "ü"}, "constant"),
        ({"constant": "x" * 62}, "constant"),
        ({"constant": "", "prefix_length": 0}, "prefix_length"),
        ({"constant": "☃\u200d", "prefix_length": 0}, "constant"),
        ({"tlds": ["com"]}, "tlds[0]"),
        ({"tlds": [".com", "."]}, "tlds[1]"),
        ({"tlds": [".com", ".COM"]}, "tlds[1]"),
        ({"tlds": [".com", ".com."]}, "tlds[1]"),
        ({"tlds": [".123"]}, "tlds[0]"),
        ({"tlds": [".-a"]}, "tlds[0]"),
        ({"tlds": [".a_b"]}, "tlds[0]"),
        ({"tlds": ["." + "a" * 64]}, "tlds[0]"),
        ({"tlds": [".é_"]}, "tlds[0]"),
        ({"tlds": [".a" * 126]}, "tlds[0]"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(changed: dict[str, object], field: str) -> None:
    assert [violation.field for violation in refused(**changed)] == [field]


def test_every_violation_is_named_at_once() -> None:
    violations = refused(
        prefix_length=-1,
        suffix_length=64,
        character_set="_",
        constant="a b",
        tlds=["com", ".ok", ".-"],
    )

    assert {violation.field for violation in violations} == {
        "prefix_length",
        "suffix_length",
        "character_set",
        "constant",
        "tlds[0]",
        "tlds[2]",
    }


characters = st.text("abcxyz019-", min_size=1, max_size=8)
labels = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?\Z")
tlds = st.lists(
    st.sampled_from([".com", ".org", ".co.uk", ".xn--p1ai", ".a-b.net"]),
    min_size=1,
    max_size=4,
    unique=True,
)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    type = draw(st.sampled_from(PatternType))
    made = parse(
        type=type,
        prefix_length=0 if type == PatternType.SUFFIX else draw(st.integers(0, 9)),
        suffix_length=0 if type == PatternType.PREFIX else draw(st.integers(0, 9)),
        character_set=draw(characters),
        constant=draw(labels | st.just("")),
        tlds=draw(tlds),
    )
    assume(isinstance(made, Pattern))
    assert isinstance(made, Pattern)
    return made


@given(patterns(), st.data())
def test_offset_and_name_are_inverse(made: Pattern, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, made.combinations - 1))

    name = made.name(offset)

    assert explain(name) == ""
    assert made.offset(name) == offset


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"type": "BOTH", "prefix_length": 2, "suffix_length": 0}),
        ({}, {"character_set": "AaBbC"}),
        ({}, {"constant": "X", "tlds": [".COM"]}),
        ({"tlds": [".рф"]}, {"tlds": [".xn--p1ai"]}),
        (
            {"constant": ""},
            {"constant": "", "type": "BOTH", "prefix_length": 1, "suffix_length": 1},
        ),
        ({"prefix_length": 0}, {"prefix_length": 0, "character_set": "z"}),
    ],
)
def test_patterns_that_are_numbered_alike_have_one_identity(
    one: dict[str, object], other: dict[str, object]
) -> None:
    first, second = (pattern(**{"type": "PREFIX"} | changed) for changed in (one, other))

    assert first.identity == second.identity
    assert list(first.names(0, first.combinations)) == list(second.names(0, second.combinations))


@pytest.mark.parametrize(
    "changed",
    [
        {"character_set": "acb"},
        {"character_set": "abcd"},
        {"prefix_length": 3},
        {"type": "BOTH", "prefix_length": 1, "suffix_length": 1},
        {"type": "SUFFIX", "prefix_length": 0, "suffix_length": 2},
        {"constant": "y"},
        {"tlds": [".org"]},
        {"tlds": [".com", ".org"]},
    ],
)
def test_any_other_numbering_is_another_identity(changed: dict[str, object]) -> None:
    assert pattern(**{"type": "PREFIX"} | changed).identity != pattern("PREFIX").identity


def test_another_order_of_tlds_is_another_identity() -> None:
    one, other = (pattern("PREFIX", tlds=tlds) for tlds in ([".com", ".org"], [".org", ".com"]))

    assert one.identity != other.identity


@given(patterns(), patterns())
def test_one_identity_means_the_same_name_at_every_offset(one: Pattern, other: Pattern) -> None:
    if one.identity == other.identity:
        assert one.combinations == other.combinations
        last = one.combinations - 1
        for offset in {0, last // 3, last // 2, last}:
            assert one.name(offset) == other.name(offset)


@pytest.mark.parametrize(
    ("constant", "tld", "name"),
    [
        ("bücher", ".com", "xn--bcher-kva.com"),
        ("Straße", ".de", "xn--strae-oqa.de"),
        # A Cyrillic a among Latin letters: two scripts are no error to IDNA, but another name.
        ("\u0430pple", ".com", "xn--pple-43d.com"),
        ("例え", ".テスト", "xn--r8jz45g.xn--zckzah"),
        ("shop", ".рф", "shop.xn--p1ai"),
        ("xn--bcher-kva", ".co.uk", "xn--bcher-kva.co.uk"),
    ],
)
def test_unicode_becomes_a_labels(constant: str, tld: str, name: str) -> None:
    made = pattern("PREFIX", prefix_length=0, constant=constant, tlds=[tld])

    assert list(made.names(0, 1)) == [[name]]
    assert made.offset(name) == 0


def test_unicode_beside_variable_characters_is_refused_with_the_reason() -> None:
    (violation,) = refused(constant="bücher")

    assert violation.field == "constant"
    assert "only without variable characters" in violation.description


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        # Right-to-left and left-to-right letters in one label.
        ({"constant": "שaא", "prefix_length": 0}, "constant"),
        ({"constant": "a\u0301\u0301\u200d", "prefix_length": 0}, "constant"),
        ({"constant": "ü" * 60, "prefix_length": 0}, "constant"),
        ({"tlds": [".com", ".שaא"]}, "tlds[1]"),
        ({"tlds": [".com", ".рф", ".xn--p1ai"]}, "tlds[2]"),
    ],
)
def test_unicode_that_is_no_name_is_refused_with_its_field(
    changed: dict[str, object], field: str
) -> None:
    assert [violation.field for violation in refused(**changed)] == [field]


@given(patterns(), st.data())
def test_a_range_of_names_is_each_of_them_in_order(made: Pattern, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, made.combinations - 1))
    count = data.draw(st.integers(0, min(300, made.combinations - offset)))

    names = [name for part in made.names(offset, count) for name in part]

    assert names == [made.name(number) for number in range(offset, offset + count)]
    assert len(set(names)) == count


def test_a_range_across_many_slices_is_without_gap() -> None:
    made = pattern("BOTH", character_set="abcdefghij", prefix_length=4, suffix_length=3)

    names = [name for part in made.names(39_999, 70_001) for name in part]

    assert len(names) == 70_001
    assert names[0] == made.name(39_999)
    assert names[-1] == made.name(109_999)
    assert list(islice(map(made.offset, names), 0, None, 1000)) == list(
        range(39_999, 110_000, 1000)
    )
