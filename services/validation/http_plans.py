"""Plans from messages: how a campaign, a persona or a call asks for pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache, lru_cache
from ipaddress import ip_network

from domainflow.validation.v1 import http_settings_pb2 as pb
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.dns_settings import seconds
from services.chassis.http_settings import (
    DEFAULT_CONTACT,
    PRODUCT,
    BadSettings,
    HttpSettings,
    Network,
    http_settings_of,
    is_within,
    lane_of,
)
from services.validation.content.crawl import Budget
from services.validation.http.addresses import PUBLIC_ONLY, AddressPolicy
from services.validation.http.retry import DEFAULT_LANES, Lane, LaneName, RetryPolicy

# Names in flight per worker process.
DEFAULT_WINDOW = 256
_REASONS = {
    pb.HttpRetryLane.REASON_RATE_LIMITED: LaneName.RATE_LIMITED,
    pb.HttpRetryLane.REASON_TIMEOUT: LaneName.TIMEOUT,
    pb.HttpRetryLane.REASON_TLS: LaneName.TLS,
    pb.HttpRetryLane.REASON_RESET: LaneName.RESET,
    pb.HttpRetryLane.REASON_SERVER_ERROR: LaneName.SERVER_ERROR,
}


@dataclass(frozen=True, slots=True)
class ContactSettings:
    """Environment of every role that asks for pages; names in upper case."""

    # Where those who are asked may complain, a URL or an address; in the default user agent.
    http_contact: str = DEFAULT_CONTACT


def default_user_agent(environment: Mapping[str, str] | None = None) -> str:
    """Who asks, where a persona does not say. Raises BadEnvironment."""
    contact = read_settings(ContactSettings, environment).http_contact
    try:
        return HttpSettings(user_agent=f"{PRODUCT}/0.1 (+{contact})").user_agent
    except BadSettings as problem:
        raise BadEnvironment(f"HTTP_CONTACT: {problem}") from None


class CrawlPolicy(IntEnum):
    """When more than the front page is read. The numbers are those of CrawlSettings.Policy."""

    # Where the front page says too little (crawl.Need), or has no contact.
    NEEDED = 1
    NEVER = 2
    ALWAYS = 3


@dataclass(frozen=True, slots=True)
class HttpPlan:
    """How pages are asked for. Equal plans may share a fetcher."""

    settings: HttpSettings = field(default_factory=HttpSettings)
    # Its lanes are a mapping.
    retry: RetryPolicy = field(default_factory=RetryPolicy, hash=False)
    crawl_policy: CrawlPolicy = CrawlPolicy.NEEDED
    budget: Budget = field(default_factory=Budget)
    # Names in flight per worker process.
    window: int = DEFAULT_WINDOW
    # The pool of proxies that requests go through, a UUID in lower case; empty: none.
    proxy_pool_id: str = ""
    policy: AddressPolicy = PUBLIC_ONLY
    # Certificates to trust besides the machine's, PEM.
    ca_pem: str = ""


def http_plan_of(settings: pb.HttpSettings, allowed: Sequence[Network] = ()) -> HttpPlan:
    """The plan of settings that were checked; what they leave open takes the defaults.

    Equal settings get the same object while it is remembered: a worker asks once per chunk.
    `allowed`: networks of the settings are admitted within these only, those that this process was
    started to allow: what was saved may have been checked elsewhere, or long ago.
    """
    return _plan_of(settings.SerializeToString(deterministic=True), tuple(allowed))


@cache
def _installed_user_agent() -> str:
    return default_user_agent()


@lru_cache(maxsize=256)
def _plan_of(body: bytes, allowed: tuple[Network, ...]) -> HttpPlan:
    settings = pb.HttpSettings.FromString(body)
    settings.user_agent = settings.user_agent or _installed_user_agent()
    defaults, budget = RetryPolicy(), Budget()
    lanes = dict(DEFAULT_LANES)
    for lane in settings.retry_lanes:
        lanes[_REASONS[lane.reason]] = Lane(*lane_of(lane))
    networks = tuple(map(ip_network, settings.allowed_networks))
    return HttpPlan(
        settings=http_settings_of(settings),
        retry=RetryPolicy(
            lanes=lanes,
            total_tries=settings.attempt_limit or defaults.total_tries,
            max_retry_after=seconds(settings.max_retry_after)
            if settings.HasField("max_retry_after")
            else defaults.max_retry_after,
        ),
        crawl_policy=CrawlPolicy(settings.crawl.policy or CrawlPolicy.NEEDED),
        budget=Budget(
            max_pages=settings.crawl.page_limit or budget.max_pages,
            max_bytes=settings.crawl.byte_limit or budget.max_bytes,
        ),
        window=settings.window or DEFAULT_WINDOW,
        proxy_pool_id=settings.proxy_pool_id.lower(),
        policy=AddressPolicy(allowed=tuple(it for it in networks if is_within(it, allowed))),
        ca_pem=settings.ca_pem,
    )
