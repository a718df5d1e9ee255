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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.chassis.domain_name import NotADomainName, explain_label, normalise
from services.chassis.errors import FieldViolation
from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.dns.suffixes import is_shared

# Lines of one list. An entry takes some 300 bytes in a matcher.
MAX_LINES = 1_000_000
# Characters of a line, comment included.
MAX_LINE = 1_000
# Bytes of a salt: fewer make hashes of the few likely addresses easy to guess.
MIN_SALT = 16

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_COMMENT = re.compile(r"\s+#.*")


class EntryKind(StrEnum):
    """What an entry is compared with."""

    DOMAIN = "domain"
    EMAIL = "email"
    EMAIL_DOMAIN = "email_domain"


class BadEntry(ValueError):
    """A text is no entry; the message says why."""


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


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of a list that is no entry."""

    # From 1.
    line: int
    # As it stands there, cut to 100 characters.
    text: str
    problem: str


@dataclass(frozen=True, slots=True)
class SuppressionList:
    """What came of a text: entries without repetition in their order, and the bad lines."""

    entries: Sequence[Entry]
    bad_lines: Sequence[BadLine]
    # Lines that repeat an entry above.
    duplicate_count: int = 0


@dataclass(frozen=True, slots=True)
class _Index:
    """Entries of one kind by value, plain and hashed."""

    plain: dict[str, Entry] = field(default_factory=dict)
    hashed: dict[str, Entry] = field(default_factory=dict)


def parse_entry(text: str) -> Entry:
    """The entry. Raises BadEntry."""
    text = text.strip()
    if not text:
        raise BadEntry("is empty")
    if len(text) > MAX_LINE:
        raise BadEntry(f"has {len(text)} characters, more than {MAX_LINE}")
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


def parse_list(text: str) -> SuppressionList:
    """Entries of a text with one per line. Empty lines are left out, and what follows a "#" that
    begins a line or stands after a space. At most MAX_LINES are read; the next one is a bad line.
    """
    entries: dict[Entry, None] = {}
    bad: list[BadLine] = []
    count = 0
    for number, line in enumerate(_lines(text), start=1):
        if number > MAX_LINES:
            bad.append(BadLine(number, "", f"is after {MAX_LINES:,} lines, as many as are read"))
            break
        entry_text = "" if line.startswith("#") else line
        if "#" in entry_text and len(entry_text) <= MAX_LINE:
            entry_text = _COMMENT.sub("", entry_text)
        if not entry_text.strip():
            continue
        try:
            entries[parse_entry(entry_text)] = None
            count += 1
        except BadEntry as problem:
            bad.append(BadLine(number, line.strip()[:100], str(problem)))
    return SuppressionList(tuple(entries), tuple(bad), count - len(entries))


def check_entries(texts: Sequence[str], path: str) -> Iterator[FieldViolation]:
    """What is wrong with entries that stand at `path`: every bad one by its index."""
    for index, text in enumerate(texts):
        try:
            parse_entry(text)
        except BadEntry as problem:
            yield FieldViolation(f"{path}[{index}]", str(problem))


def hashed(entry: Entry, salt: bytes) -> Entry:
    """The same entry without saying whom it means. Raises ValueError for a salt that is short."""
    if len(salt) < MIN_SALT:
        raise ValueError(f"the salt has {len(salt)} bytes, fewer than {MIN_SALT}")
    if entry.is_hashed:
        return entry
    return Entry(entry.kind, _hash(entry.value, salt), is_hashed=True)


class Suppression:
    """A list, ready to ask. Costs a lookup per label, and a hash as well where a kind has hashed
    entries, whatever the number of entries. The answer is the entry that matched, the most
    specific one where there are several."""

    def __init__(self, entries: Iterable[Entry], *, salt: bytes = b"") -> None:
        """Raises ValueError for hashed entries without a salt of at least MIN_SALT bytes."""
        self._salt = salt
        self._kinds = {kind: _Index() for kind in EntryKind}
        for entry in entries:
            if entry.is_hashed and len(salt) < MIN_SALT:
                raise ValueError(f"hashed entries need a salt of at least {MIN_SALT} bytes")
            index = self._kinds[entry.kind]
            (index.hashed if entry.is_hashed else index.plain)[entry.value] = entry

    def __len__(self) -> int:
        return sum(len(index.plain) + len(index.hashed) for index in self._kinds.values())

    def match_name(self, name: str) -> Entry | None:
        """The entry that keeps a domain name from being a lead; None without one, and for what is
        no name."""
        try:
            return self._match_parents(EntryKind.DOMAIN, normalise(name))
        except NotADomainName:
            return None

    def match_address(self, address: str) -> Entry | None:
        """The entry that keeps an e-mail address from being written to; None without one, and for
        what is no address."""
        try:
            address = normalise_address(address)
        except NotAnAddress:
            return None
        found = self._match(EntryKind.EMAIL, address)
        if found:
            return found
        domain = address.rpartition("@")[2]
        return self._match_parents(EntryKind.EMAIL_DOMAIN, domain) or self._match_parents(
            EntryKind.DOMAIN, domain
        )

    def _match_parents(self, kind: EntryKind, name: str) -> Entry | None:
        while name:
            found = self._match(kind, name)
            if found:
                return found
            name = name.partition(".")[2]
        return None

    def _match(self, kind: EntryKind, value: str) -> Entry | None:
        index = self._kinds[kind]
        found = index.plain.get(value)
        if found is None and index.hashed:
            return index.hashed.get(_hash(value, self._salt))
        return found


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
        raise BadEntry(f"is a public suffix: write .{name} to suppress every name below it")
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


def _lines(text: str) -> Iterator[str]:
    """Lines without holding them all; a byte order mark is left out."""
    start = 1 if text.startswith("\ufeff") else 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1
