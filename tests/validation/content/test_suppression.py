"""Entries, lists and what they match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.content import suppression
from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.content.suppression import (
    BadEntry,
    Entry,
    EntryKind,
    Suppression,
    check_entries,
    hashed,
    parse_entry,
    parse_list,
)

SALT = b"sixteen bytes at" + b"!"

labels = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
names = st.lists(labels, max_size=3).map(lambda parts: ".".join([*parts, "example", "org"]))
addresses = st.builds(lambda local, name: f"{local}@{name}", labels, names)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (" Example.COM. ", EntryKind.DOMAIN, "example.com"),
        ("Müller.de", EntryKind.DOMAIN, "xn--mller-kva.de"),
        ("mueller.co.uk", EntryKind.DOMAIN, "mueller.co.uk"),
        (".co.uk", EntryKind.DOMAIN, "co.uk"),
        (".GOV", EntryKind.DOMAIN, "gov"),
        (".рф", EntryKind.DOMAIN, "xn--p1ai"),
        (".example.com", EntryKind.DOMAIN, "example.com"),
        ("Info@Example.com", EntryKind.EMAIL, "info@example.com"),
        ("jörg@Müller.de", EntryKind.EMAIL, "jörg@xn--mller-kva.de"),
        ("@Example.com", EntryKind.EMAIL_DOMAIN, "example.com"),
    ],
)
def test_entries_are_kept_in_their_normal_form(text, kind, value):
    assert parse_entry(text) == Entry(kind, value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("com", "no dot"),
        ("co.uk", r"public suffix: write \.co\.uk"),
        ("github.io", "public suffix"),
        ("*.example.com", "characters other than"),
        ("-a.example", "hyphen"),
        ("192.0.2.1", "address"),
        (".", "empty label"),
        ("a" * 64 + ".com", "64 characters"),
        ("a@b@example.com", "before the @"),
        ("a b@example.com", "before the @"),
        ("a..b@example.com", "before the @"),
        ("@", "after the @: is empty"),
        ("x@localhost", "its domain has no dot"),
        ("x" * 65 + "@example.com", "64 octets"),
        ("ü" * 33 + "@example.com", "64 octets"),
        ("domain:abc", "64 hexadecimal"),
        ("phone:" + "0" * 64, "is no hash"),
        ("https://example.com", "is no hash"),
        ("x" * 1_001, "more than 1000"),
    ],
)
def test_bad_entries_say_what_is_wrong(text, problem):
    with pytest.raises(BadEntry, match=problem):
        parse_entry(text)


def test_every_bad_entry_is_named_by_its_index():
    found = check_entries(["example.com", "com", "a@b.de", "@"], "suppression.entries")

    assert [each.field for each in found] == ["suppression.entries[1]", "suppression.entries[3]"]


def test_a_list_gives_its_entries_and_names_its_bad_lines():
    text = "\ufeff# whom not to ask\r\nexample.com\r\n\r\ncom\nEXAMPLE.com  # again\n@a.de\nx y\n"

    found = parse_list(text)

    assert [str(entry) for entry in found.entries] == ["example.com", "@a.de"]
    assert [(bad.line, bad.text) for bad in found.bad_lines] == [(4, "com"), (7, "x y")]
    assert found.duplicate_count == 1


@given(st.text(max_size=300))
def test_any_text_is_a_list_whose_entries_read_back(text):
    found = parse_list(text)

    assert [parse_entry(str(entry)) for entry in found.entries] == list(found.entries)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("example.com", "example.com"),
        ("example.com", "www.example.com"),
        ("example.com", "a.b.EXAMPLE.com."),
        (".gov", "nasa.gov"),
        (".co.uk", "firm.co.uk"),
        ("müller.de", "www.müller.de"),
    ],
)
def test_a_domain_entry_matches_the_name_and_all_below(entry, name):
    assert Suppression([parse_entry(entry)]).match_name(name) == parse_entry(entry)


@pytest.mark.parametrize("name", ["notexample.com", "example.com.de", "com", "", "x" * 300, "a b"])
def test_a_domain_entry_matches_nothing_else(name):
    assert Suppression([parse_entry("example.com")]).match_name(name) is None


@pytest.mark.parametrize("entry", ["info@example.com", "@example.com"])
def test_entries_about_addresses_leave_websites_alone(entry):
    listed = Suppression([parse_entry(entry)])

    assert listed.match_name("example.com") is None
    assert listed.match_address("INFO@example.com") == parse_entry(entry)


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("example.com", "a@example.com"),
        ("example.com", "a@mail.example.com"),
        ("@example.com", "a@mail.example.com"),
    ],
)
def test_addresses_at_a_listed_domain_or_below_match(entry, address):
    assert Suppression([parse_entry(entry)]).match_address(address) == parse_entry(entry)


@pytest.mark.parametrize("address", ["b@example.com", "a@example.org", "a", "@", "a@b@c.de"])
def test_an_address_entry_matches_that_address_only(address):
    assert Suppression([parse_entry("a@example.com")]).match_address(address) is None


def test_the_most_specific_entry_answers():
    listed = Suppression(
        [parse_entry(text) for text in ("example.com", "www.example.com", "@example.com", ".com")]
    )

    assert str(listed.match_name("a.www.example.com")) == "www.example.com"
    assert str(listed.match_name("b.example.com")) == "example.com"
    assert str(listed.match_address("x@example.com")) == "@example.com"


@given(names | addresses | names.map("@{}".format), names, addresses)
def test_hashed_entries_match_exactly_what_plain_ones_do(text, name, address):
    entry = parse_entry(text)
    secret = hashed(entry, SALT)
    plain, hidden = Suppression([entry]), Suppression([secret], salt=SALT)

    for asked in (name, text.rpartition("@")[2], "www." + text.rpartition("@")[2]):
        assert bool(plain.match_name(asked)) == (hidden.match_name(asked) == secret)
    for asked in (address, text, "x@" + text.rpartition("@")[2]):
        assert bool(plain.match_address(asked)) == (hidden.match_address(asked) == secret)
    assert parse_entry(str(secret)) == secret
    assert text.rpartition("@")[2] not in str(secret)


def test_another_salt_matches_nothing():
    listed = Suppression([hashed(parse_entry("a@example.com"), SALT)], salt=b"another salt " * 2)

    assert listed.match_address("a@example.com") is None


def test_a_short_salt_is_refused():
    with pytest.raises(ValueError, match="16"):
        hashed(parse_entry("a@example.com"), b"short")
    with pytest.raises(ValueError, match="16"):
        Suppression([hashed(parse_entry("a@example.com"), SALT)])


@given(names, st.lists(names, max_size=5))
def test_a_name_matches_when_it_or_a_parent_is_listed(name, listed):
    answer = Suppression([parse_entry(each) for each in listed]).match_name(name)

    expected = [each for each in listed if name == each or name.endswith(f".{each}")]
    assert (str(answer) if answer else None) == max(expected, key=len, default=None)


@given(st.text(max_size=80) | addresses)
def test_normal_addresses_stay_as_they_are(text):
    try:
        address = normalise_address(text)
    except NotAnAddress:
        return
    assert normalise_address(address) == address
    assert len(address.encode()) <= 254


def test_an_address_over_254_octets_is_refused():
    domain = ".".join(["a" * 63] * 3) + ".de"
    assert normalise_address("x" * 59 + "@" + domain)

    with pytest.raises(NotAnAddress, match="254"):
        normalise_address("x" * 60 + "@" + domain)


def test_lines_beyond_the_limit_are_not_read_in_silence():
    found = parse_list("\n" * suppression.MAX_LINES + "example.com")

    assert not found.entries
    assert [bad.line for bad in found.bad_lines] == [suppression.MAX_LINES + 1]
