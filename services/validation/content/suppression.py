"""Whom not to make a lead of and not to write to. Pure.

An entry is one of

    example.com         this name and every name below it, and every address at one of them
    .co.uk              every name below a public suffix or a top-level domain: a leading dot
    info@example.com    this address; the websites of its domain are not touched
    @example.com        every address at this domain or below it; the websites are not touched

or the salted hash of one, so that a list of people who do not want to be written to need not
itself say who they are:

    domain:HASH   email:HASH   email_domain:HASH

HASH is HMAC-SHA-256 of the value in its normal form (see `hashed`), keyed with the list's salt, as
64 hexadecimal digits.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from services.chassis.domain_name import NotADomainName, explain_label, normalise
from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.dns.suffixes import is_shared

# Characters of an entry.
MAX_ENTRY = 500
# Bytes of a salt: fewer make hashes of the few likely addresses easy to guess.
MIN_SALT = 16

_HASH = re.compile(r"[0-9a-f]{64}\Z")


class EntryKind(StrEnum):
    """What an entry is compared with."""

    DOMAIN = "domain"
    EMAIL = "email"
    EMAIL_DOMAIN = "email_domain"


class BadEntry(ValueError):
    """A text is no entry; the message says why."""


class SharedName(BadEntry):
    """A name is a public suffix, which nobody means by its bare name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"is a public suffix: write .{name} to suppress every name below it")
        self.name = name


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry in its normal form."""

    kind: EntryKind
    # Name in A-labels without a dot at either end, address, or hash.
    value: str
    is_hashed: bool = False

    def __str__(self) -> str:
        if self.is_hashed:
            return f"{self.kind}:{self.value}"
        if self.kind is EntryKind.EMAIL_DOMAIN:
            return f"@{self.value}"
        if self.kind is EntryKind.DOMAIN and is_shared(self.value):
            return f".{self.value}"
        return self.value


def parse_entry(text: str) -> Entry:
    """The entry. Raises BadEntry."""
    text = text.strip()
    if not text:
        raise BadEntry("is empty")
    if len(text) > MAX_ENTRY:
        raise BadEntry(f"has {len(text)} characters, more than {MAX_ENTRY}")
    kind, colon, digest = text.partition(":")
    if colon:
        return _parse_hashed(kind.strip().lower(), digest.strip().lower())
    if text.startswith("@"):
        return Entry(EntryKind.EMAIL_DOMAIN, _name(text[1:], "after the @: "))
    if "@" in text:
        try:
            return Entry(EntryKind.EMAIL, normalise_address(text))
        except NotAnAddress as problem:
            raise BadEntry(str(problem)) from None
    return _parse_domain(text)


def hashed(entry: Entry, salt: bytes) -> Entry:
    """The same entry without saying whom it means. Raises ValueError for a salt that is short."""
    if len(salt) < MIN_SALT:
        raise ValueError(f"the salt has {len(salt)} bytes, fewer than {MIN_SALT}")
    if entry.is_hashed:
        return entry
    return Entry(entry.kind, _hash(entry.value, salt), is_hashed=True)


def stored_forms(text: str) -> tuple[str, ...]:
    """Everything that the entry `text` may be stored as. Raises BadEntry.

    What was nobody's suffix when it was stored may be one by now, and the other way round.
    """
    try:
        entry = parse_entry(text)
    except SharedName as shared:
        entry = Entry(EntryKind.DOMAIN, shared.name)
    if entry.is_hashed or entry.kind is not EntryKind.DOMAIN:
        return (str(entry),)
    return entry.value, f".{entry.value}"


def entries_of_name(name: str, salt: bytes = b"") -> list[str]:
    """Stored forms of all entries that would suppress a name, the most specific first.

    `name` is in its normal form. With a salt the hashed ones are among them.
    """
    found: list[str] = []
    for parent in _parents(name):
        found += (parent, f".{parent}")
        if salt:
            found.append(f"{EntryKind.DOMAIN}:{_hash(parent, salt)}")
    return found


def entries_of_address(address: str, salt: bytes = b"") -> list[str]:
    """Stored forms of all entries that would suppress an e-mail address in its normal form, as
    `entries_of_name` gives them."""
    found = [address]
    if salt:
        found.append(f"{EntryKind.EMAIL}:{_hash(address, salt)}")
    domain = address.rpartition("@")[2]
    for parent in _parents(domain):
        found.append(f"@{parent}")
        if salt:
            found.append(f"{EntryKind.EMAIL_DOMAIN}:{_hash(parent, salt)}")
    return found + entries_of_name(domain, salt)


def _parse_hashed(kind: str, digest: str) -> Entry:
    if kind not in list(EntryKind):
        raise BadEntry("has a colon and is no hash, domain:, email: or email_domain:")
    if not _HASH.match(digest):
        raise BadEntry("has no 64 hexadecimal digits after the colon")
    return Entry(EntryKind(kind), digest, is_hashed=True)


def _parse_domain(text: str) -> Entry:
    if text.startswith("."):
        return Entry(EntryKind.DOMAIN, _suffix(text[1:]))
    name = _name(text)
    if is_shared(name):
        raise SharedName(name)
    return Entry(EntryKind.DOMAIN, name)


def _suffix(text: str) -> str:
    label = text.lower().removesuffix(".")
    if "." not in label and label.isascii() and not label.isdigit():
        if problem := explain_label(label):
            raise BadEntry(problem)
        return label
    if "." not in label and not label.isascii():
        # A top-level domain in its own script: what IDNA makes of it below some name.
        return _name(f"x.{label}").partition(".")[2]
    return _name(text)


def _name(text: str, where: str = "") -> str:
    try:
        return normalise(text)
    except NotADomainName as problem:
        raise BadEntry(f"{where}{problem}") from None


def _hash(value: str, salt: bytes) -> str:
    return hmac.digest(salt, value.encode(), hashlib.sha256).hex()


def _parents(name: str) -> Iterator[str]:
    """The name and all names above it."""
    while name:
        yield name
        name = name.partition(".")[2]
