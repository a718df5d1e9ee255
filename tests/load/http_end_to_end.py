"""Pages a second of the whole suite's HTTP phase, against a bare aiohttp loop on the same server.

End to end is: queue, robots.txt and page, TLS judged, markup, classification, keywords, features,
fingerprint, contacts, storage. The bare loop asks for the same two and forgets them. It is one
process, as one worker is; on two cores the server and PostgreSQL take their part of both.

Without distance a page costs nothing but CPU, so that the ratio says how much of it the look at a
page takes; real sites are far, and the bare loop waits for them most of the time. Sizes are such
that a trial takes a minute or less. BENCH_SHARE makes them smaller: to see that it works, not for
figures.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import http_settings_pb2, keyword_pb2
from services.chassis.matching.choice import compile_choice
from services.sandbox.web_text import LANGUAGES
from services.validation.page_look import RawPage, look
from tests.load.bare_fetch import Fetched, Task, bare_fetch, host_of
from tests.load.busy_suite import Busy, busy_suite, scaled, seconds
from tests.load.page_server import DOMAIN, page_bodies
from tests.load.processes import cpu, cpu_of_family, peak_rss_mb, rss_mb, server, waited

HTTP = campaign_pb2.PHASE_HTTP_VALIDATION
# Of the pattern, so that all names have six digits.
FIRST = 100_000
WINDOW = 256
PLAIN, TLS, FAR = scaled(10_000, least=500), scaled(8_000, least=500), scaled(8_000, least=500)
# Seconds to a site and back.
DISTANCE = 0.25
KEYWORDS = [keyword for language in LANGUAGES for keyword in language.keywords]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is fetched how, by how many workers."""

    names: int
    workers: int = 1
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """One HTTP phase. CPU in seconds, memory of the largest worker in MB."""

    seconds: float
    worker_cpu: float
    # That workers were ready and had no core.
    worker_waited: float
    postgres_cpu: float
    server_cpu: float
    early_rss_mb: float
    late_rss_mb: float
    peak_rss_mb: float
    outcomes: dict[str, int]


def run() -> list[dict[str, Any]]:
    results = []
    far = f"{DISTANCE * 1e3:.0f} ms away"
    for where, distance, names in (
        ("", 0.0, {False: PLAIN, True: TLS}),
        (f" {far}", DISTANCE, {False: FAR, True: FAR}),
    ):
        with server("tests.load.page_server", str(distance)) as said:
            for tls in (False, True):
                name = f"{'TLS' if tls else 'plain'}{where}"
                results += _scaling(name, Trial(names[tls], tls=tls), json.loads(said))
    results[0]["look_ms_by_part"] = parts()
    return results


def _scaling(name: str, trial: Trial, where: dict[str, Any]) -> list[dict[str, Any]]:
    """With one worker and with two, against the same run of the bare loop."""
    bare = _bare(trial, where)
    one = _measured(f"{name}, 1 worker", trial, where, bare)
    two = _measured(f"{name}, 2 workers", replace(trial, workers=2), where, bare)
    return [one, {**two, "scaling": two["value"] / one["value"]}]


def _measured(name: str, trial: Trial, where: dict[str, Any], bare: Fetched) -> dict[str, Any]:
    phase = asyncio.run(campaign(trial, where))
    # Speed is worth nothing unless every page came.
    assert phase.outcomes == {"OK": trial.names}, phase.outcomes
    value, yardstick = trial.names / phase.seconds, trial.names / bare.seconds
    return {
        "name": f"http_end_to_end, {name}",
        "value": value,
        "unit": "pages/s",
        "yardstick": {"name": "bare aiohttp, 1 process", "value": yardstick, "unit": "pages/s"},
        "ratio": value / yardstick,
        "target": "ratio >= 0.8",
        "pages": trial.names,
        "page_bytes": bare.size / bare.pages,
        "seconds": phase.seconds,
        "bare_seconds": bare.seconds,
        "worker_cpu_ms_per_page": phase.worker_cpu / trial.names * 1e3,
        "worker_waited_ms_per_page": phase.worker_waited / trial.names * 1e3,
        "bare_cpu_ms_per_page": bare.cpu / trial.names * 1e3,
        "postgres_cpu_ms_per_page": phase.postgres_cpu / trial.names * 1e3,
        "server_cpu_ms_per_page": phase.server_cpu / trial.names * 1e3,
        "peak_rss_mb": phase.peak_rss_mb,
    }


def _bare(trial: Trial, where: dict[str, Any]) -> Fetched:
    port = where["https_port"] if trial.tls else where["http_port"]
    ca_pem = where["ca_pem"] if trial.tls else ""
    found = bare_fetch(Task(FIRST, trial.names, WINDOW, port, ca_pem))
    assert found.pages == trial.names
    return found


async def campaign(trial: Trial, where: dict[str, Any]) -> Phase:
    """Start a suite, generate and resolve the names, then ask for their pages."""
    environment = {"HTTP_ALLOWED_NETWORKS": where["network"]}
    async with busy_suite(1, environment, http_workers=trial.workers) as busy:
        load = await busy.create(
            trial.names,
            where["dns"],
            pattern=campaign_pb2.PatternSource(
                type=campaign_pb2.PATTERN_TYPE_SUFFIX,
                suffix_length=len(str(FIRST)),
                character_set="0123456789",
                constant="name",
                tlds=[f".{DOMAIN}"],
                first_offset=FIRST,
                # All trials are of the names that the bare loop is given.
                overlap_allowed=True,
            ),
            http=campaign_pb2.HttpConfiguration(
                settings=settings(trial, where),
                keywords=keyword_pb2.KeywordChoice(keywords=KEYWORDS),
            ),
        )
        await load.generated()
        await load.start()
        await load.completed()
        workers = _pids(busy)
        postgres = busy.pid("postgres")

        def used() -> tuple[float, ...]:
            return (
                sum(map(cpu, workers)),
                sum(map(waited, workers)),
                cpu_of_family(postgres),
                cpu(where["pid"]),
            )

        before = used()
        await load.start()
        await load.until_settled(trial.names // 10, HTTP)
        early = max(map(rss_mb, workers))
        done = await load.completed(HTTP)
        after = used()
        outcomes = await load.outcomes(HTTP)
        return Phase(
            seconds(done),
            *(end - start for start, end in zip(before, after, strict=True)),
            early,
            max(map(rss_mb, workers)),
            max(map(peak_rss_mb, workers)),
            outcomes,
        )


def settings(trial: Trial, where: dict[str, Any]) -> http_settings_pb2.HttpSettings:
    """The defaults, at the server's ports, and nothing beyond the front page."""
    return http_settings_pb2.HttpSettings(
        schemes=["https"] if trial.tls else ["http"],
        https_ports=[where["https_port"]],
        http_ports=[where["http_port"]],
        connect_timeout=Duration(seconds=30),
        first_byte_timeout=Duration(seconds=30),
        total_timeout=Duration(seconds=60),
        crawl=http_settings_pb2.CrawlSettings(policy=http_settings_pb2.CrawlSettings.POLICY_NEVER),
        window=WINDOW,
        allowed_networks=[where["network"]],
        ca_pem=where["ca_pem"],
    )


def _pids(busy: Busy) -> list[int]:
    return [busy.pid(name) for name in busy.suite.processes if name.startswith("http-worker-")]


def parts() -> dict[str, float]:
    """Milliseconds of CPU that looking at a page takes, part by part, each measured alone."""
    from services.validation.content.classify import classify
    from services.validation.content.clusters import fingerprint
    from services.validation.content.contacts import find_contacts
    from services.validation.content.markup import parse
    from services.validation.page_look import _contact_page

    keywords = compile_choice(keyword_pb2.KeywordChoice(keywords=KEYWORDS), [])
    pages = [
        (host_of(number), f"https://{host_of(number)}/", kind, content)
        for number, (kind, content) in enumerate(page_bodies())
    ]
    read = [
        (host, url, parse(content, url=url, content_type=kind))
        for host, url, kind, content in pages
    ]

    def took(work: Callable[[], object]) -> float:
        # The first time fills caches.
        work()
        began = time.process_time()
        work()
        return round((time.process_time() - began) / len(pages) * 1e3, 3)

    return {
        "all": took(
            lambda: [
                look(RawPage(content, url, kind), name=host, keywords=keywords, now=1_790_000_000)
                for host, url, kind, content in pages
            ]
        ),
        "parse": took(
            lambda: [parse(content, url=url, content_type=kind) for _, url, kind, content in pages]
        ),
        "classify": took(
            lambda: [classify(page, name=host, final_url=url) for host, url, page in read]
        ),
        "scan": took(lambda: [keywords.scan(page.text, page.title) for _, _, page in read]),
        "fingerprint": took(lambda: [fingerprint(page, host) for host, _, page in read]),
        "contacts": took(
            lambda: [find_contacts(_contact_page(page, url)) for _, url, page in read]
        ),
    }
