"""Entries, lists and what they match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.content.suppression import (
    BadEntry,
    Entry,
    EntryKind,
    entries_of_address,
    entries_of_name,
    hashed,
    parse_entry,
    stored_forms,
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
        ("x" * 501, "more than 500"),
    ],
)
def test_bad_entries_say_what_is_wrong(text, problem):
    with pytest.raises(BadEntry, match=problem):
        parse_entry(text)


@given(names | addresses | names.map("@{}".format))
def test_the_normal_form_of_an_entry_reads_back(text):
    entry = parse_entry(text.upper())

    assert parse_entry(str(entry)) == entry
    assert str(entry) in stored_forms(text)


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("CO.UK", {"co.uk", ".co.uk"}),
        ("example.com", {"example.com", ".example.com"}),
        ("@example.com", {"@example.com"}),
        ("a@Example.com", {"a@example.com"}),
        ("domain:" + "A" * 64, {"domain:" + "a" * 64}),
    ],
)
def test_an_entry_is_found_also_when_its_suffix_was_not_public_before(text, forms):
    assert set(stored_forms(text)) == forms


def match_name(name, *entries, salt=b""):
    """The first of the entries that would suppress a name which is one of these."""
    listed = {str(each) for each in entries}
    return next((each for each in entries_of_name(name, salt) if each in listed), None)


def match_address(address, *entries, salt=b""):
    listed = {str(each) for each in entries}
    return next((each for each in entries_of_address(address, salt) if each in listed), None)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("example.com", "example.com"),
        ("example.com", "www.example.com"),
        ("example.com", "a.b.example.com"),
        (".gov", "nasa.gov"),
        (".co.uk", "firm.co.uk"),
        ("müller.de", "www.xn--mller-kva.de"),
    ],
)
def test_a_domain_entry_matches_the_name_and_all_below(entry, name):
    assert match_name(name, parse_entry(entry)) == str(parse_entry(entry))


@pytest.mark.parametrize("name", ["notexample.com", "example.com.de", "com", ""])
def test_a_domain_entry_matches_nothing_else(name):
    assert match_name(name, "example.com") is None


@pytest.mark.parametrize("entry", ["info@example.com", "@example.com"])
def test_entries_about_addresses_leave_websites_alone(entry):
    assert match_name("example.com", entry) is None
    assert match_address("info@example.com", entry) == entry


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("example.com", "a@example.com"),
        ("example.com", "a@mail.example.com"),
        ("@example.com", "a@mail.example.com"),
    ],
)
def test_addresses_at_a_listed_domain_or_below_match(entry, address):
    assert match_address(address, entry) == entry


@pytest.mark.parametrize("address", ["b@example.com", "a@example.org"])
def test_an_address_entry_matches_that_address_only(address):
    assert match_address(address, "a@example.com") is None


def test_the_most_specific_entry_answers():
    listed = ("example.com", "www.example.com", "@example.com", ".com")

    assert match_name("a.www.example.com", *listed) == "www.example.com"
    assert match_name("b.example.com", *listed) == "example.com"
    assert match_address("x@example.com", *listed) == "@example.com"


@given(names | addresses | names.map("@{}".format), names, addresses)
def test_hashed_entries_match_exactly_what_plain_ones_do(text, name, address):
    entry = parse_entry(text)
    secret = hashed(entry, SALT)
    domain = text.rpartition("@")[2]

    for asked in (name, domain, f"www.{domain}"):
        hit = match_name(asked, secret, salt=SALT)
        assert hit == (str(secret) if match_name(asked, entry) else None)
    for asked in (address, text if "@" in text else f"a@{text}", f"x@{domain}"):
        hit = match_address(asked, secret, salt=SALT)
        assert hit == (str(secret) if match_address(asked, entry) else None)
    assert parse_entry(str(secret)) == secret
    assert domain not in str(secret)


def test_another_salt_matches_nothing():
    secret = hashed(parse_entry("a@example.com"), SALT)

    assert match_address("a@example.com", secret, salt=b"another salt " * 2) is None
    assert match_address("a@example.com", secret) is None


def test_a_short_salt_is_refused():
    with pytest.raises(ValueError, match="16"):
        hashed(parse_entry("a@example.com"), b"short")


@given(names, st.lists(names, max_size=5))
def test_a_name_matches_when_it_or_a_parent_is_listed(name, listed):
    expected = [each for each in listed if name == each or name.endswith(f".{each}")]

    assert match_name(name, *listed) == max(expected, key=len, default=None)


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
