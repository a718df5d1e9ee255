"""What the demo does beyond DNS: how pages are asked for, and what must have come of every name.

The sandbox knows each page, so everything is compared: verdict, status, URL, title, kind, keywords,
contacts, the hash of the bytes, and the decision. Only the score is taken as it is; the decision
must follow from it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2
from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import (
    http_pb2,
    http_settings_pb2,
    keyword_pb2,
    lead_pb2,
    page_pb2,
)
from services.sandbox import web_text
from services.sandbox.truth import RESOLVED
from services.sandbox.web_pages import body
from services.sandbox.web_truth import OK, TIMEOUT, Fetching, WebTruth, WebWorld

KEYWORDS = tuple(keyword for each in web_text.LANGUAGES for keyword in each.keywords)
# The defaults of LeadThresholds: thousandths, and bytes.
MATCH, GRACE, THIN = 270, 240, 1_024
# As `settings` asks for pages.
FETCHING = Fetching(verify=False, robots=True, retry=True, closed_port=True)
_PARKED = (page_pb2.PAGE_KIND_PARKED, page_pb2.PAGE_KIND_FOR_SALE)


@dataclass(frozen=True, slots=True)
class Web:
    """Where the sandbox's web servers listen."""

    http_port: int
    https_port: int
    # Where nobody does.
    closed_port: int
    # Their addresses, which the suite must have been started to allow.
    network: str
    ca_pem: str

    @classmethod
    def told(cls, said: Mapping[str, Any]) -> "Web":
        """From what the sandbox says when it has started."""
        return cls(**{name: said[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Row:
    """What is stored of a name, as far as lists have it."""

    name: str
    dns_verdict: int
    http_verdict: int
    status: int
    final_url: str
    title: str
    # Thousandths; -1: none.
    score: int
    lead_reason: int


def http_configuration(web: Web, **others: Any) -> campaign_pb2.HttpConfiguration:
    """How pages are asked for: politely, and not for long. `others` go into the settings."""
    lane = http_settings_pb2.HttpRetryLane
    second = Duration(seconds=1)
    lanes = [
        lane(reason=reason, attempt_limit=limit, delay=second, max_delay=Duration(seconds=3))
        for reason, limit in (
            (lane.REASON_RATE_LIMITED, 4),
            (lane.REASON_TIMEOUT, 2),
            (lane.REASON_TLS, 2),
            (lane.REASON_RESET, 2),
            (lane.REASON_SERVER_ERROR, 2),
        )
    ]
    settings = http_settings_pb2.HttpSettings(
        https_ports=[web.https_port],
        http_ports=[web.http_port, web.closed_port],
        # Servers and fetcher share this machine: few at a time have an answer soon, and a site that
        # is silent is told from one that has to wait for its turn.
        connect_timeout=Duration(seconds=6),
        first_byte_timeout=Duration(seconds=5),
        total_timeout=Duration(seconds=15),
        window=48,
        retry_lanes=lanes,
        crawl=http_settings_pb2.CrawlSettings(policy=http_settings_pb2.CrawlSettings.POLICY_ALWAYS),
        allowed_networks=[web.network],
        ca_pem=web.ca_pem,
    )
    settings.MergeFrom(http_settings_pb2.HttpSettings(**others))
    return campaign_pb2.HttpConfiguration(
        settings=settings, keywords=keyword_pb2.KeywordChoice(keywords=KEYWORDS)
    )


@dataclass(slots=True)
class PageCheck:
    """The comparison of everything beyond DNS, name by name."""

    web: Web
    world: WebWorld
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    # Pages with a keyword, and without.
    matches: Counter[bool] = field(default_factory=Counter)

    def row(self, row: Row) -> str:
        """What is wrong with a name; "" when nothing is."""
        if row.dns_verdict != RESOLVED:
            later = row.http_verdict, row.status, row.score, row.lead_reason
            return f"{row.name} went on without resolving" if later != (0, 0, -1, 0) else ""
        known = self.world.truth(row.name)
        if known is None:
            return f"{row.name} has no web server"
        verdict, due = row.http_verdict, known.verdict(FETCHING)
        self.verdicts[verdict_name(verdict)] += 1
        self.reasons[reason_name(row.lead_reason)] += 1
        if verdict != due:
            return _unlike(row.name, "HTTP", verdict_name(verdict), verdict_name(due), known)
        if row.status != known.status(FETCHING):
            return _unlike(row.name, "status", row.status, known.status(FETCHING), known)
        if (row.score >= 0) != (due == OK):
            return _unlike(row.name, "score", row.score, "one" if due == OK else "none", known)
        if due == OK:
            page = known.page
            assert page is not None
            self.matches[bool(page.all_hits)] += 1
            for what, found, right in (
                ("URL", row.final_url, self._url(known)),
                ("title", row.title, page.title),
            ):
                if found != right:
                    return _unlike(row.name, what, found, right, known)
        right_reason = decision(known, row.score)
        if row.lead_reason != right_reason:
            return _unlike(
                row.name, "lead", reason_name(row.lead_reason), reason_name(right_reason), known
            )
        return ""

    def page(self, domain: query_service_pb2.Domain) -> str:
        """What is wrong with what is stored of a page; "" when nothing is."""
        known = self.world.truth(domain.name)
        if known is None or known.page is None:
            return f"{domain.name} has no page"
        page = known.page
        for what, found, right in (
            ("kind", page_pb2.PageKind.Name(domain.page.kind), kind_name(known)),
            ("keywords", _hits(domain), expected_hits(known)),
            ("match", domain.page.keyword_match, bool(page.all_hits)),
            ("contacts", _contacts(domain.page), {(it.kind, it.value) for it in page.contacts}),
            ("truncation", domain.http.truncated, known.truncated),
        ):
            if found != right:
                return _unlike(domain.name, what, found, right, known)
        if not known.truncated and domain.http.content_sha256 != sha256(body(known)).digest():
            return f"{domain.name}: the page is not the one that was sent"
        return ""

    def accounting_errors(self, account: campaign_pb2.Receipt) -> list[str]:
        """What the receipt says otherwise than the rows."""
        analysed = {
            "WITH_KEYWORD": self.matches[True],
            "WITHOUT_KEYWORD": self.matches[False],
        }
        found = []
        for phase, rows in (
            (campaign_pb2.PHASE_HTTP_VALIDATION, dict(self.verdicts)),
            (campaign_pb2.PHASE_CONTENT_ANALYSIS, {k: v for k, v in analysed.items() if v}),
            (campaign_pb2.PHASE_LEAD_EXTRACTION, dict(self.reasons)),
        ):
            told = next((each for each in account.phases if each.phase == phase), None)
            name = campaign_pb2.Phase.Name(phase)
            if told is None:
                found.append(f"the receipt has no {name}")
                continue
            counted = {each.outcome: each.count for each in told.outcomes}
            if counted != rows or told.name_count != sum(rows.values()) or told.unsettled_count:
                found.append(
                    f"{name}: the receipt says {counted} of {told.name_count:,}, the rows {rows}"
                )
        return found

    def _url(self, known: WebTruth) -> str:
        host, path = known.landing
        port = self.web.https_port if known.scheme == "https" else self.web.http_port
        return f"{known.scheme}://{host}:{port}{path}"


def decision(known: WebTruth, score: int) -> int:
    """The LeadReason that follows from the truth and the stored score, in thousandths."""
    verdict = known.verdict(FETCHING)
    if verdict != OK:
        timed_out = verdict == TIMEOUT
        return lead_pb2.LEAD_REASON_HTTP_TIMEOUT if timed_out else lead_pb2.LEAD_REASON_HTTP_ERROR
    if page_pb2.PageKind.Value(kind_name(known)) in _PARKED:
        return lead_pb2.LEAD_REASON_PARKED
    page = known.page
    assert page is not None
    if not page.all_hits:
        return lead_pb2.LEAD_REASON_NO_KEYWORDS
    if score >= MATCH:
        return lead_pb2.LEAD_REASON_QUALIFIED
    if not known.truncated and len(body(known)) < THIN:
        return lead_pb2.LEAD_REASON_THIN_CONTENT
    if score >= GRACE:
        return lead_pb2.LEAD_REASON_QUALIFIED
    return lead_pb2.LEAD_REASON_LOW_SCORE


def kind_name(known: WebTruth) -> str:
    """PAGE_KIND_PARKED and so on."""
    return f"PAGE_KIND_{known.kind}"


def expected_hits(known: WebTruth) -> dict[str, int]:
    """By keyword, over the front page and the one with the contacts, which has the same title."""
    page = known.page
    assert page is not None
    hits = page.all_hits
    if page.contact_path != "/" and page.title_keyword:
        hits[page.title_keyword] += 1
    return hits


def verdict_name(number: int) -> str:
    """`OK`; the number for one that this client does not know."""
    return _name(http_pb2.HttpVerdict, number, "HTTP_VERDICT_")


def reason_name(number: int) -> str:
    """`QUALIFIED`; the number for one that this client does not know."""
    return _name(lead_pb2.LeadReason, number, "LEAD_REASON_")


def _name(kind: Any, number: int, prefix: str) -> str:
    if number not in kind.values():
        return str(number)
    name: str = kind.Name(number)
    return name.removeprefix(prefix)


def _hits(domain: query_service_pb2.Domain) -> dict[str, int]:
    return {each.keyword: each.hit_count for each in domain.analysis.keyword_hits}


def _contacts(page: page_pb2.PageEvidence) -> set[tuple[int, str]]:
    return {(each.kind, each.value) for each in page.contacts}


def _unlike(name: str, what: str, found: object, right: object, known: WebTruth) -> str:
    return f"{name} ({known.behaviour.name}): {what} is {found}, should be {right}"
