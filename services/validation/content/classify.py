"""What kind of page it is that is not about anything: parked, for sale, unfinished, a login, an
error that says 200. Every rule that fired is named with its weight. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from services.validation.content.marks import (
    CONSTRUCTION_PHRASES,
    DEFAULT_PHRASES,
    LOGIN_PHRASES,
    NOT_FOUND_PHRASES,
    PARKED_PHRASES,
    PARKING_DOMAINS,
    PARKING_MARKS,
    PARKING_PATHS,
    SALE_PHRASES,
    SENT_ON,
)
from services.validation.content.markup import Document, host_of, same_site


class PageKind(IntEnum):
    """The first that applies, from PARKED on, is what a page is called."""

    CONTENT = 1
    # Advertising or a placeholder of a parking provider instead of a site.
    PARKED = 2
    # The name itself is offered. Such a page is parked too.
    FOR_SALE = 3
    # The page of a server or host that nobody has set up.
    DEFAULT_PAGE = 4
    # It says that something is to come.
    UNDER_CONSTRUCTION = 5
    # An allowed status, but the page says that there is none.
    SOFT_NOT_FOUND = 6
    # Nothing is shown without an account.
    LOGIN = 7
    # No words at all.
    EMPTY = 8


@dataclass(frozen=True, slots=True)
class Signal:
    # Stable, in lower case, such as "parking_name_server".
    name: str
    # The confidence this rule gives by itself, 0 to 1.
    weight: float
    # What matched: a host or phrase, at most 100 characters.
    evidence: str


@dataclass(frozen=True, slots=True)
class Finding:
    kind: PageKind
    # 1 - product of (1 - weight) over the signals; 0 to 1, three decimals.
    confidence: float
    signals: tuple[Signal, ...]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Least confidence for a page to be called so, 0 to 1.

    0.30 for parked is what users of the product before this one are used to: an offer of the name
    in the title is enough, the word "parked" there is not.
    """

    parked: float = 0.30
    for_sale: float = 0.30
    default_page: float = 0.50
    under_construction: float = 0.50
    soft_not_found: float = 0.50
    login: float = 0.50
    # Characters of text under which a page is thin.
    thin_text: int = 2_000


@dataclass(frozen=True, slots=True)
class Classification:
    kind: PageKind
    # 0 to 1, three decimals, whether or not the threshold is reached.
    parked_confidence: float
    # All for which a signal fired, reached or not, in the order of the kinds.
    findings: tuple[Finding, ...]

    @property
    def is_parked(self) -> bool:
        return self.kind in (PageKind.PARKED, PageKind.FOR_SALE)


DEFAULT_THRESHOLDS = Thresholds()

# Characters of the text in which phrases are looked for: such pages say it at once.
_LOOKED_AT = 3_000
_MAX_EVIDENCE = 100


def classify(
    page: Document,
    *,
    name: str = "",
    final_url: str = "",
    name_servers: Iterable[str] = (),
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Classification:
    """Say what kind of page it is.

    `name` is the name that was asked for, `final_url` where redirects ended, `name_servers` those
    of its delegation when they are known: without them their rules stay silent. Phrases in the
    text count in thin pages only, so that an article about parking is no parked page.
    """
    title = page.title.lower()
    headings = " ".join(it.text for it in page.headings[:3])[:600].lower()
    head = f"{title}\n{headings}"
    is_thin = len(page.text) < thresholds.thin_text
    # Never empty for a thin page, so that it also tells whether the page is thin.
    body = f" {page.text[:_LOOKED_AT].lower()}" if is_thin else ""
    name = name.lower().rstrip(".")

    sale = _sale(page, head, body, name)
    parked = _parked(page, head, body, name, final_url, name_servers, is_thin)
    findings = [
        _finding(PageKind.PARKED, [*parked, *sale]),
        _finding(PageKind.FOR_SALE, sale),
        _finding(PageKind.DEFAULT_PAGE, _default(head, body)),
        _finding(PageKind.UNDER_CONSTRUCTION, _construction(page, head, body)),
        _finding(PageKind.SOFT_NOT_FOUND, _not_found(page, title, headings, body)),
        _finding(PageKind.LOGIN, _login(page, head, body)),
    ]
    if not page.text and not page.title:
        # Nothing but scripts may still be a page in a browser.
        weight = 0.6 if page.script_count else 1.0
        findings.append(_finding(PageKind.EMPTY, [Signal("no_text", weight, "")]))
    return Classification(
        _kind(findings, thresholds, said_by_the_way=_by_the_way(sale, parked)),
        findings[0].confidence,
        tuple(it for it in findings if it.signals),
    )


def parking_domain(host: str) -> str:
    """The known parking domain a host is, or is below; empty when it is none."""
    host = host.lower().rstrip(".")
    while host:
        if host in PARKING_DOMAINS:
            return host
        host = host.partition(".")[2]
    return ""


def _by_the_way(sale: Sequence[Signal], parked: Sequence[Signal]) -> bool:
    """Whether the offer is a line of a parking page, as most of them have one."""
    if not sale or sale[0].name == "sale_phrase_in_title":
        return False
    return _finding(PageKind.PARKED, parked).confidence > sale[0].weight


def _kind(
    findings: Sequence[Finding], thresholds: Thresholds, *, said_by_the_way: bool
) -> PageKind:
    least = {
        PageKind.PARKED: thresholds.parked,
        PageKind.FOR_SALE: thresholds.for_sale,
        PageKind.DEFAULT_PAGE: thresholds.default_page,
        PageKind.UNDER_CONSTRUCTION: thresholds.under_construction,
        PageKind.SOFT_NOT_FOUND: thresholds.soft_not_found,
        PageKind.LOGIN: thresholds.login,
        PageKind.EMPTY: 0.0,
    }
    reached = [it.kind for it in findings if it.signals and it.confidence >= least[it.kind]]
    if PageKind.FOR_SALE in reached and not said_by_the_way:
        return PageKind.FOR_SALE
    return reached[0] if reached else PageKind.CONTENT


def _finding(kind: PageKind, signals: Sequence[Signal]) -> Finding:
    doubt = 1.0
    for signal in signals:
        doubt *= 1.0 - signal.weight
    return Finding(kind, round(1.0 - doubt, 3), tuple(signals))


def _first(phrases: Iterable[str], text: str, name: str = "") -> str:
    """The first phrase that the text has; empty without one."""
    if not text:
        return ""
    is_named = name and name in text
    for phrase in phrases:
        if "{" in phrase:
            if not is_named:
                continue
            phrase = phrase.replace("{name}", name)
        if phrase in text:
            return phrase[:_MAX_EVIDENCE]
    return ""


def _sale(page: Document, head: str, body: str, name: str) -> list[Signal]:
    if phrase := _first(SALE_PHRASES, head, name):
        # A long page of that title may be about selling names.
        return [Signal("sale_phrase_in_title", 0.6 if body else 0.308, phrase)]
    if body and (phrase := _first(SALE_PHRASES, body, name)):
        return [Signal("sale_phrase_in_text", 0.35, phrase)]
    if phrase := _first(SALE_PHRASES, page.description.lower(), name):
        return [Signal("sale_phrase_in_description", 0.35, phrase)]
    return []


def _parked(
    page: Document,
    head: str,
    body: str,
    name: str,
    final_url: str,
    name_servers: Iterable[str],
    is_thin: bool,
) -> list[Signal]:
    signals = []
    for server in name_servers:
        if parking_domain(server):
            signals.append(Signal("parking_name_server", 0.7, server[:_MAX_EVIDENCE]))
            break
    host = host_of(final_url) if final_url else ""
    away = bool(host and name and not same_site(host, name))
    if away and parking_domain(host):
        signals.append(Signal("redirect_to_parking", 0.9, host[:_MAX_EVIDENCE]))
    elif away and host.startswith(SENT_ON) and host.partition(".")[2] == name:
        signals.append(Signal("sent_to_numbered_host", 0.6, host[:_MAX_EVIDENCE]))
    if is_thin:
        path = final_url.partition("//")[2].partition("/")[2].lower()
        if path and (mark := next((it for it in PARKING_PATHS if it in f"/{path[:200]}"), "")):
            signals.append(Signal("parking_path", 0.2, mark))
        for resource in page.resource_hosts:
            if parking_domain(resource):
                signals.append(Signal("parking_resource", 0.7, resource[:_MAX_EVIDENCE]))
                break
        if parking_domain(host_of(page.refresh)):
            signals.append(Signal("refresh_to_parking", 0.8, host_of(page.refresh)[:_MAX_EVIDENCE]))
        links = [it.url for it in page.links[:50] if not it.same_host]
        if target := next((it for it in links if parking_domain(host_of(it))), ""):
            signals.append(Signal("link_to_parking", 0.35, host_of(target)[:_MAX_EVIDENCE]))
    scripts = page.script_text[:20_000].lower()
    hosts = " ".join(page.resource_hosts)
    for mark, weight in PARKING_MARKS:
        if mark in scripts or mark in hosts:
            signals.append(Signal("parking_script", weight, mark))
            break
    said = [it for it in PARKED_PHRASES if it[0] in head] if is_thin else []
    if said:
        phrase, weight = max(said, key=lambda it: it[1])
        signals.append(Signal("parked_phrase_in_title", weight, phrase))
    elif "parked" in page.title.lower():
        signals.append(Signal("parked_in_title", 0.231, "parked"))
    # The text of a page has its headings as well: what they said is no second word for it.
    if more := [it for it in PARKED_PHRASES if it[0] in body and it not in said]:
        phrase, weight = max(more, key=lambda it: it[1])
        signals.append(Signal("parked_phrase_in_text", weight, phrase))
    if is_thin and page.anchor_share > 0.5 and signals:
        signals.append(Signal("thin_text_of_links", 0.2, f"{page.anchor_share:.2f}"))
    return signals


def _default(head: str, body: str) -> list[Signal]:
    signals = []
    if phrase := _first(DEFAULT_PHRASES, head):
        signals.append(Signal("default_phrase_in_title", 0.7, phrase))
    if phrase := _first(DEFAULT_PHRASES, body):
        signals.append(Signal("default_phrase_in_text", 0.4, phrase))
    return signals


def _construction(page: Document, head: str, body: str) -> list[Signal]:
    # A shop may announce one thing in a long page.
    if not body:
        return []
    signals = []
    if phrase := _first(CONSTRUCTION_PHRASES, head):
        signals.append(Signal("construction_phrase_in_title", 0.6, phrase))
    if phrase := _first(CONSTRUCTION_PHRASES, body):
        short = len(page.text) < 500
        signals.append(Signal("construction_phrase_in_text", 0.5 if short else 0.25, phrase))
    return signals


def _not_found(page: Document, title: str, headings: str, body: str) -> list[Signal]:
    signals = []
    if title.strip(" .!") in ("404", "not found", "error", "oops"):
        signals.append(Signal("not_found_title", 0.6, title))
    elif phrase := _first(NOT_FOUND_PHRASES, title):
        signals.append(Signal("not_found_phrase_in_title", 0.7, phrase))
    if phrase := _first(NOT_FOUND_PHRASES, headings):
        signals.append(Signal("not_found_phrase_in_heading", 0.5, phrase))
    if phrase := _first(NOT_FOUND_PHRASES, body):
        short = len(page.text) < 500
        signals.append(Signal("not_found_phrase_in_text", 0.35 if short else 0.2, phrase))
    return signals


def _login(page: Document, head: str, body: str) -> list[Signal]:
    if not body:
        return []
    signals = []
    if page.has_password_field:
        signals.append(Signal("password_field", 0.5 if len(page.text) < 600 else 0.2, ""))
    if phrase := _first(LOGIN_PHRASES, head):
        signals.append(Signal("login_phrase_in_title", 0.4, phrase))
    return signals
