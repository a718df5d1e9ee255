"""What schema.org objects say about whom to reach. Pure.

Objects come from the page, so they may be of any shape and depth: the walk is a loop over at most
MAX_NODES values, and takes of them what looks like text.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.validation.content.sighting import MAX_NODES, MAX_VALUE

# Texts of one property that are looked at.
MAX_TEXTS = 50

# Ends of the type names of schema.org/Organization and of what is below it.
_ORGANISATIONS = (
    "organization", "business", "corporation", "store", "shop", "agency", "restaurant", "hotel",
    "dentist", "physician", "attorney", "notary", "electrician", "plumber", "locksmith",
    "roofingcontractor", "housepainter", "movingcompany", "airline", "company", "salon", "spa",
    "clinic", "hospital", "pharmacy", "bakery", "brewery", "winery", "cafe", "cafeorcoffeeshop",
    "barorpub", "gym", "school", "university", "collegeoruniversity", "ngo", "library", "bank",
    "bankorcreditunion", "service", "dealer", "rental", "repair", "wash", "lodging", "resort",
    "hostel", "motel", "bedandbreakfast", "campground", "studio", "gallery", "healthclub",
    "veterinarycare", "realestateagent", "travelagency", "employmentagency", "sportsteam",
)  # fmt: skip
# Objects under these properties are other people's.
_OTHERS = frozenset(
    "author brand manufacturer review reviews itemreviewed sponsor funder memberof worksfor"
    " performer organizer hiringorganization affiliation alumniof creator contributor"
    " offeredby seller provider employee member client customer".split()
)
_COUNTRIES = {
    "germany": "DE", "deutschland": "DE", "deu": "DE", "austria": "AT", "österreich": "AT",
    "aut": "AT", "switzerland": "CH", "schweiz": "CH", "suisse": "CH", "che": "CH",
    "france": "FR", "fra": "FR", "italy": "IT", "italia": "IT", "ita": "IT", "spain": "ES",
    "españa": "ES", "esp": "ES", "united kingdom": "GB", "gbr": "GB", "england": "GB",
    "great britain": "GB", "uk": "GB", "united states": "US", "usa": "US",
    "united states of america": "US", "canada": "CA", "can": "CA", "netherlands": "NL",
    "nederland": "NL", "nld": "NL", "belgium": "BE", "bel": "BE", "poland": "PL", "polska": "PL",
    "pol": "PL", "australia": "AU", "aus": "AU", "india": "IN", "ind": "IN", "japan": "JP",
    "jpn": "JP", "sweden": "SE", "swe": "SE", "denmark": "DK", "dnk": "DK", "norway": "NO",
    "nor": "NO", "portugal": "PT", "prt": "PT", "ireland": "IE", "irl": "IE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """One text of one property."""

    text: str
    # Type and property, such as "Organization.telephone".
    place: str
    # Whether the object is about somebody else, such as the author of a review.
    is_others: bool
    # Of the object's address; empty without one.
    country: str = ""


@dataclass(slots=True)
class Statements:
    """What the objects of a page say, in their order."""

    emails: list[Statement] = field(default_factory=list)
    phones: list[Statement] = field(default_factory=list)
    faxes: list[Statement] = field(default_factory=list)
    legal_names: list[Statement] = field(default_factory=list)
    names: list[Statement] = field(default_factory=list)
    profiles: list[Statement] = field(default_factory=list)
    # ISO 3166, in order of appearance.
    countries: list[str] = field(default_factory=list)


def statements_of(items: Iterable[Any]) -> Statements:
    """What is said about reaching somebody. Never fails."""
    found = Statements()
    # Object or list, whether it is somebody else's, and the country of what it is part of. Level
    # by level: what is deep cannot use up what is looked at.
    pending: deque[tuple[Any, bool, str]] = deque([(list(_first(items, MAX_NODES)), False, "")])
    seen = 0
    while pending and seen < MAX_NODES:
        seen += 1
        value, is_others, country = pending.popleft()
        if isinstance(value, Mapping):
            pending += _read(value, is_others, country, found)
        elif isinstance(value, list | tuple):
            pending += [(each, is_others, country) for each in value[:MAX_NODES]]
    return found


def _read(
    node: Mapping[Any, Any], is_others: bool, country: str, found: Statements
) -> list[tuple[Any, bool, str]]:
    """Take what one object says; what to look at next."""
    types = [_tail(each) for each in _texts(node.get("@type", node.get("type")))]
    inner = node.get("properties")
    if isinstance(inner, Mapping):
        node = inner
    by_property = {_tail(key).lower(): each for key, each in _first(node.items(), MAX_NODES)}
    own = _country(by_property)
    if own:
        country = own
        found.countries.append(own)
    kind = types[0] if types else "Thing"
    wanted = {
        "email": found.emails,
        "telephone": found.phones,
        "faxnumber": found.faxes,
        "legalname": found.legal_names,
    }
    is_organisation = "legalname" in by_property or any(
        each.lower().endswith(_ORGANISATIONS) for each in types
    )
    is_person = any(each.lower() == "person" for each in types)
    if is_organisation:
        wanted["name"] = found.names
    if is_organisation or is_person:
        wanted["sameas"] = found.profiles
    for name, statements in wanted.items():
        for text in _texts(by_property.get(name)):
            statements.append(Statement(text, f"{kind}.{name}", is_others or is_person, country))
    return [
        (each, is_others or name in _OTHERS, country)
        for name, each in by_property.items()
        if isinstance(each, Mapping | list | tuple)
    ]


def _country(node: Mapping[str, Any]) -> str:
    addresses = node.get("address", node)
    for address in addresses if isinstance(addresses, list | tuple) else [addresses]:
        if not isinstance(address, Mapping):
            continue
        inner = address.get("properties")
        for key, value in _first((inner if isinstance(inner, Mapping) else address).items(), 100):
            if _tail(key).lower() == "addresscountry":
                return _code(value)
    return ""


def _code(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = value.get("properties")
        value = (inner if isinstance(inner, Mapping) else value).get("name")
    for text in _texts(value):
        text = text.strip()
        if len(text) == 2 and text.isascii() and text.isalpha():
            return "GB" if text.upper() == "UK" else text.upper()
        return _COUNTRIES.get(text.lower(), "")
    return ""


def _texts(value: Any) -> list[str]:
    """Texts of a value or a list of them; numbers as texts, because some write phones so."""
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    texts = []
    for each in values[:MAX_TEXTS]:
        if isinstance(each, Mapping):
            each = each.get("@value", each.get("@id"))
        if isinstance(each, int) and not isinstance(each, bool) and 0 < each < 10**18:
            each = str(each)
        if isinstance(each, str) and each.strip():
            texts.append(each[:MAX_VALUE])
    return texts


def _tail(key: Any) -> str:
    """ "telephone" of "https://schema.org/telephone" and "schema:telephone"."""
    text = key[-100:] if isinstance(key, str) else ""
    for mark in "/#:":
        text = text.rpartition(mark)[2]
    return text


def _first(values: Iterable[Any], count: int) -> Iterator[Any]:
    for _, value in zip(range(count), values, strict=False):
        yield value
