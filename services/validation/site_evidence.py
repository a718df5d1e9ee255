"""Sites -> messages."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from domainflow.validation.v1 import http_pb2, keyword_pb2, lead_pb2, page_pb2
from services.chassis.matching.keywords import PageHits, RuleHits
from services.validation.content.sighting import Contact, clean
from services.validation.http.certificates import TlsFacts
from services.validation.http.verdict import Truncation
from services.validation.sites import Site

MAX_REASON = 300
# Attempts that are told of.
MAX_EARLIER = 20
_LONGEST_URL = 2_000
_TRUNCATIONS = {Truncation.SIZE: "size", Truncation.TIME: "time", Truncation.BROKEN: "broken"}


def http_to_pb(site: Site, now_ns: int) -> http_pb2.HttpResult:
    """Verdict and evidence; `now_ns`, Unix nanoseconds, is when it is told."""
    fetch, look = site.fetch, site.look
    result = http_pb2.HttpResult(
        verdict=http_pb2.HttpVerdict.ValueType(fetch.verdict),
        status_code=fetch.status,
        final_url=fetch.final_url,
        truncated=fetch.truncation is not Truncation.NONE,
        attempt_count=fetch.attempts,
        evidence=http_evidence_to_pb(site),
    )
    if look is not None:
        result.title, result.language = look.title, look.language
        result.content_size, result.content_sha256 = look.byte_size, look.sha256
    result.duration.FromMicroseconds(fetch.duration_us)
    result.check_time.FromNanoseconds(now_ns)
    return result


def http_evidence_to_pb(site: Site) -> http_pb2.HttpEvidence:
    """How the verdict came about."""
    fetch = site.fetch
    message = http_pb2.HttpEvidence(
        reason=clean(fetch.reason, MAX_REASON),
        address=fetch.address,
        proxy=clean(fetch.proxy, MAX_REASON),
        content_type=clean(fetch.headers.content_type, 500),
        server=clean(fetch.headers.server, 500),
        truncation=_TRUNCATIONS.get(fetch.truncation, ""),
    )
    for url, status in fetch.redirects:
        message.redirects.add(url=clean(url, _LONGEST_URL), status_code=status)
    for trial in fetch.trials:
        message.trials.add(
            scheme=trial.scheme,
            port=trial.port,
            verdict=http_pb2.HttpVerdict.ValueType(trial.verdict),
            reason=clean(trial.reason, MAX_REASON),
        )
    if fetch.tls is not None:
        _fill_tls(message.tls, fetch.tls)
    if fetch.connect_us:
        message.connect_duration.FromMicroseconds(fetch.connect_us)
    if fetch.first_byte_us:
        message.first_byte_duration.FromMicroseconds(fetch.first_byte_us)
    for attempt in site.earlier[-MAX_EARLIER:]:
        told = message.earlier_attempts.add(
            verdict=http_pb2.HttpVerdict.ValueType(attempt.verdict), status_code=attempt.status
        )
        told.delay.FromMicroseconds(int(attempt.delay * 1e6))
    return message


def page_to_pb(site: Site) -> page_pb2.PageEvidence:
    """What is known of a site's pages besides its score. ValueError for a site without a page."""
    look = site.look
    if look is None:
        raise ValueError(f"{site.fetch.name} has no page")
    found = look.classification
    message = page_pb2.PageEvidence(
        kind=page_pb2.PageKind.ValueType(found.kind),
        parked_confidence=found.parked_confidence,
        keyword_match=look.is_match,
        fingerprint=look.fingerprint.sketch,
        has_structure=look.has_structure,
        encoding=look.encoding,
        cluster_size=site.cluster_size,
    )
    for finding in found.findings:
        told = message.findings.add(
            kind=page_pb2.PageKind.ValueType(finding.kind), confidence=finding.confidence
        )
        for signal in finding.signals:
            told.signals.add(
                signal=signal.name, weight=signal.weight, evidence=clean(signal.evidence, 100)
            )
    if look.hits is not None:
        message.rule_hits.extend(rule_hits_to_pb(look.hits))
        message.hits_complete = look.hits.complete
    message.contacts.extend(map(contact_to_pb, look.contacts))
    for page in site.crawled:
        message.crawled_pages.add(
            url=clean(page.url, _LONGEST_URL),
            verdict=http_pb2.HttpVerdict.ValueType(page.verdict),
            content_size=page.byte_size,
            subject=page.subject.name.lower(),
        )
    return message


def rule_hits_to_pb(hits: PageHits) -> list[keyword_pb2.RuleHits]:
    """What each rule hit, in the order of the rules."""
    return [_rule_hits(it) for it in hits.rules]


def contact_to_pb(contact: Contact) -> lead_pb2.Contact:
    return lead_pb2.Contact(
        kind=lead_pb2.ContactKind.ValueType(contact.kind),
        value=contact.value,
        source_url=contact.source_url,
        snippet=contact.snippet,
        found=contact.found,
        confidence=contact.confidence,
    )


def _rule_hits(hits: RuleHits) -> keyword_pb2.RuleHits:
    message = keyword_pb2.RuleHits(
        rule=hits.rule.name,
        category=hits.rule.category,
        hit_count=hits.count,
        title_hit_count=hits.title_count,
    )
    for each in hits.snippets:
        message.snippets.add(
            start=each.start,
            end=each.end,
            in_title=each.in_title,
            before=each.before,
            hit=each.hit,
            after=each.after,
        )
    return message


def _fill_tls(message: http_pb2.TlsEvidence, tls: TlsFacts) -> None:
    message.version, message.cipher = tls.version, tls.cipher
    _fill_time(message.not_before_time, tls.not_before)
    _fill_time(message.not_after_time, tls.not_after)
    message.names.extend(clean(it, 300) for it in tls.names)
    message.issuer = clean(tls.issuer, 200)
    message.valid, message.problem = tls.valid, clean(tls.problem, MAX_REASON)


def _fill_time(message: Timestamp, time: datetime | None) -> None:
    if time is not None:
        message.FromDatetime(time)
