"""Plans of HTTP settings: each field arrives, what is left open takes its default, and whatever
could not be carried out is refused by its name."""

from ipaddress import ip_network
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from domainflow.validation.v1.http_settings_pb2 import (
    TLS_VERSION_1_0,
    TLS_VERSION_1_1,
    TLS_VERSION_1_2,
    TLS_VERSION_1_3,
    CrawlSettings,
    HttpHeader,
    HttpRetryLane,
    HttpSettings,
)
from services.chassis import http_settings
from services.chassis.config import BadEnvironment
from services.chassis.http_settings import (
    LANE_DEFAULTS,
    TlsVersion,
    check_http_settings,
    networks_of,
)
from services.chassis.rules import ContractRules
from services.validation.content.crawl import Budget
from services.validation.http.addresses import PUBLIC_ONLY, AddressPolicy
from services.validation.http.retry import DEFAULT_LANES, Lane, LaneName, RetryPolicy
from services.validation.http_plans import CrawlPolicy, HttpPlan, default_user_agent, http_plan_of
from tests.chassis.test_dns_settings import certificate

MS = 1_000_000
POOL = "0d8a6e9e-7d3f-4b57-9d0a-5a7d4a6e3c11"
EVERYTHING = HttpSettings(
    user_agent="me/1 (+https://me.example/)",
    headers=[HttpHeader(name="Accept", value="text/html"), HttpHeader(name="X-A", value="")],
    accept_language="de",
    schemes=["http", "https"],
    https_ports=[8443, 443],
    http_ports=[8080],
    redirect_limit=0,
    allowed_statuses=[200, 404],
    tls_floor=TLS_VERSION_1_3,
    certificates_enforced=True,
    connect_timeout=Duration(nanos=250 * MS),
    first_byte_timeout=Duration(seconds=3),
    total_timeout=Duration(seconds=12),
    body_limit=2048,
    header_limit=4096,
    cookies_disabled=True,
    keep_alive_disabled=True,
    robots_ignored=True,
    host_in_flight_limit=1,
    address_in_flight_limit=2,
    host_rate_limit=0.5,
    address_rate_limit=100,
    retry_lanes=[
        HttpRetryLane(reason=HttpRetryLane.REASON_TIMEOUT, attempt_limit=1),
        HttpRetryLane(
            reason=HttpRetryLane.REASON_RESET, delay=Duration(), max_delay=Duration(seconds=9)
        ),
        HttpRetryLane(reason=HttpRetryLane.REASON_TLS, delay=Duration(seconds=600)),
    ],
    attempt_limit=9,
    max_retry_after=Duration(),
    crawl=CrawlSettings(policy=CrawlSettings.POLICY_ALWAYS, page_limit=7, byte_limit=1000),
    proxy_pool_id=POOL.upper(),
    window=77,
    allowed_networks=["127.0.0.0/8", "fd00::/8"],
    ca_pem="PEM",
)
ANYWHERE = networks_of("0.0.0.0/0, ::/0")


def test_settings_that_say_nothing_are_the_defaults() -> None:
    assert http_plan_of(HttpSettings()) == HttpPlan()
    assert HttpPlan().policy == PUBLIC_ONLY


def test_every_field_arrives() -> None:
    assert http_plan_of(EVERYTHING, ANYWHERE) == HttpPlan(
        settings=http_settings.HttpSettings(
            user_agent="me/1 (+https://me.example/)",
            headers=(("Accept", "text/html"),),
            accept_language="de",
            schemes=("http", "https"),
            https_ports=(8443, 443),
            http_ports=(8080,),
            max_redirects=0,
            allowed_statuses=frozenset({200, 404}),
            tls_floor=TlsVersion.TLS_1_3,
            enforce_certificates=True,
            connect_timeout=0.25,
            first_byte_timeout=3.0,
            total_timeout=12.0,
            body_limit=2048,
            header_limit=4096,
            cookies=False,
            keep_alive=False,
            respect_robots=False,
            host_concurrency=1,
            address_concurrency=2,
            host_rate=0.5,
            address_rate=100.0,
        ),
        retry=RetryPolicy(
            lanes={
                **DEFAULT_LANES,
                LaneName.TIMEOUT: Lane(1, 60, 600),
                LaneName.RESET: Lane(3, 0, 9),
                LaneName.TLS: Lane(2, 600, 600),
            },
            total_tries=9,
            max_retry_after=0.0,
        ),
        crawl_policy=CrawlPolicy.ALWAYS,
        budget=Budget(max_pages=7, max_bytes=1000),
        window=77,
        proxy_pool_id=POOL,
        policy=AddressPolicy.parse(allowed=["127.0.0.0/8", "fd00::/8"]),
        ca_pem="PEM",
    )


@pytest.mark.parametrize("field", HttpSettings.DESCRIPTOR.fields_by_name)
def test_each_field_alone_makes_another_plan(field: str) -> None:
    alone = HttpSettings()
    if field == "schemes":
        alone.schemes.append("http")
    elif field == "headers":
        # One without a value is not sent: no headers at all are others than the default ones.
        alone.headers.add(name="X-A")
    else:
        whole = HttpSettings()
        whole.CopyFrom(EVERYTHING)
        for other in HttpSettings.DESCRIPTOR.fields_by_name:
            if other != field:
                whole.ClearField(other)
        alone.MergeFrom(whole)

    plan = http_plan_of(alone, ANYWHERE)

    assert plan != HttpPlan()
    assert http_plan_of(HttpSettings()) == HttpPlan()


def test_equal_settings_share_a_plan_that_is_a_key() -> None:
    again = HttpSettings.FromString(EVERYTHING.SerializeToString())

    assert http_plan_of(EVERYTHING) is http_plan_of(again)
    assert {http_plan_of(EVERYTHING): 1, HttpPlan(): 2}[HttpPlan()] == 2


def test_a_language_can_be_left_out() -> None:
    assert http_plan_of(HttpSettings(accept_language="-")).settings.accept_language == ""


def test_versions_of_tls_are_those_on_the_wire() -> None:
    wanted = {
        TLS_VERSION_1_0: TlsVersion.TLS_1_0,
        TLS_VERSION_1_1: TlsVersion.TLS_1_1,
        TLS_VERSION_1_2: TlsVersion.TLS_1_2,
        TLS_VERSION_1_3: TlsVersion.TLS_1_3,
    }

    for number, version in wanted.items():
        floor = http_plan_of(HttpSettings(tls_floor=number)).settings.tls_floor
        assert floor == version
        assert isinstance(floor, TlsVersion)


def test_lanes_have_the_same_defaults_wherever_they_are_written() -> None:
    for reason, numbers in LANE_DEFAULTS.items():
        settings = HttpSettings(retry_lanes=[HttpRetryLane(reason=reason)])
        assert http_plan_of(settings).retry == RetryPolicy()
        assert Lane(*numbers) in DEFAULT_LANES.values()
    assert len(LANE_DEFAULTS) == len(DEFAULT_LANES)


def test_networks_that_the_service_does_not_allow_any_more_are_left_out() -> None:
    policy = http_plan_of(EVERYTHING, networks_of("127.0.0.0/8")).policy

    assert policy.allowed == (ip_network("127.0.0.0/8"),)
    assert http_plan_of(EVERYTHING).policy == PUBLIC_ONLY


# What is refused.


def refused(settings: HttpSettings, allowed: str | None = None) -> set[str]:
    networks = None if allowed is None else networks_of(allowed)
    return {
        each.field.removeprefix("at.") for each in check_http_settings(settings, "at", networks)
    }


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"user_agent": "a\nb"}, "user_agent"),
        ({"headers": [{"name": "A", "value": "b"}, {"name": "Host", "value": "x"}]}, "headers[1]"),
        ({"headers": [{"name": "a b"}]}, "headers[0]"),
        ({"headers": [{"name": "a", "value": "x\r\ny"}]}, "headers[0]"),
        ({"accept_language": "\n"}, "accept_language"),
        ({"schemes": ["ftp"]}, "schemes"),
        ({"http_ports": [0]}, "http_ports"),
        ({"redirect_limit": 21}, "redirect_limit"),
        ({"allowed_statuses": [99]}, "allowed_statuses"),
        ({"tls_floor": 9}, "tls_floor"),
        ({"connect_timeout": {"seconds": 61}, "total_timeout": {"seconds": 99}}, "connect_timeout"),
        ({"connect_timeout": {"seconds": 30}}, "total_timeout"),
        ({"total_timeout": {"seconds": 1 << 62}}, "total_timeout"),
        ({"body_limit": 1}, "body_limit"),
        ({"host_in_flight_limit": 1001}, "host_in_flight_limit"),
        ({"address_in_flight_limit": -1}, "address_in_flight_limit"),
        ({"host_rate_limit": float("nan")}, "host_rate_limit"),
        ({"address_rate_limit": -1}, "address_rate_limit"),
        ({"retry_lanes": [{"reason": 2}, {"reason": 2}]}, "retry_lanes[1].reason"),
        ({"retry_lanes": [{"reason": 2, "delay": {"seconds": 601}}]}, "retry_lanes[0].delay"),
        ({"retry_lanes": [{"reason": 2, "delay": {"seconds": 1 << 62}}]}, "retry_lanes[0].delay"),
        ({"retry_lanes": [{"reason": 2, "max_delay": {}}]}, "retry_lanes[0].max_delay"),
        ({"allowed_networks": ["10.0.0.0/8", "10.0.0.1/8"]}, "allowed_networks[1]"),
        ({"ca_pem": "PEM"}, "ca_pem"),
    ],
)
def test_what_cannot_be_carried_out_is_named(settings: dict[str, Any], field: str) -> None:
    assert refused(HttpSettings(**settings)) == {field}


def test_networks_are_refused_unless_the_service_allows_them_whole() -> None:
    settings = HttpSettings(
        allowed_networks=["10.1.0.0/16", "10.0.0.0/7", "fd00::/8", "127.0.0.1/32"],
        ca_pem=certificate(),
    )

    assert refused(settings, "10.0.0.0/8, fc00::/7,") == {
        "allowed_networks[1]",
        "allowed_networks[3]",
    }
    assert refused(settings, "") == {f"allowed_networks[{n}]" for n in range(4)}
    assert refused(settings) == set()
    with pytest.raises(ValueError, match="10"):
        networks_of("10.0.0.1/8")


def within(field: str) -> st.SearchStrategy[Any]:
    """Values around the limits of a field."""
    seconds = st.sampled_from([-1, 0, 20, 600, 601, 86_400, 86_401, 1 << 62]).map(
        lambda it: Duration(seconds=it)
    )
    special: dict[str, st.SearchStrategy[Any]] = {
        "headers": st.lists(
            st.builds(
                HttpHeader,
                name=st.sampled_from(["Accept", "X-A", "Host", "a b", ""]),
                value=st.sampled_from(["", "x", "x\n", "é"]),
            ),
            max_size=3,
        ),
        "schemes": st.lists(st.sampled_from(["http", "https", "ftp"]), max_size=3),
        "tls_floor": st.integers(0, 6),
        "retry_lanes": st.lists(
            st.builds(
                HttpRetryLane,
                reason=st.integers(0, 6),
                attempt_limit=st.integers(-1, 21),
                delay=st.none() | seconds,
                max_delay=st.none() | seconds,
            ),
            max_size=3,
        ),
        "crawl": st.builds(
            CrawlSettings,
            policy=st.integers(0, 4),
            page_limit=st.integers(-1, 21),
            byte_limit=st.sampled_from([-1, 0, 1, 16_777_216, 16_777_217]),
        ),
        "allowed_networks": st.lists(
            st.sampled_from(["10.0.0.0/8", "::/0", "10.0.0.1/8", "x", ""]), max_size=3
        ),
        "proxy_pool_id": st.sampled_from(["", POOL, POOL.upper(), "x"]),
        "ca_pem": st.sampled_from(["", "x"]),
    }
    if field in special:
        return special[field]
    found = HttpSettings.DESCRIPTOR.fields_by_name[field]
    if found.message_type is not None:
        return st.sampled_from([50 * MS - 1, 50 * MS, 10**9]).map(
            lambda it: Duration(nanos=it % 10**9, seconds=it // 10**9)
        ) | st.integers(0, 400).map(lambda it: Duration(seconds=it))
    one: st.SearchStrategy[Any]
    if found.cpp_type == found.CPPTYPE_BOOL:
        one = st.booleans()
    elif found.cpp_type == found.CPPTYPE_STRING:
        one = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    elif found.cpp_type == found.CPPTYPE_DOUBLE:
        one = st.sampled_from([0.0, 1e-9, 10_000.0, 10_001.0, -1.0, float("nan"), float("inf")])
    else:
        one = st.sampled_from([-1, 0, 1, 20, 21, 99, 100, 443, 599, 600, 1000, 1024, 65_536, 10**8])
    return st.lists(one, max_size=3) if found.is_repeated else one


SETTINGS = st.fixed_dictionaries(
    {}, optional={field: within(field) for field in HttpSettings.DESCRIPTOR.fields_by_name}
).map(lambda given: HttpSettings(**given))
CONTRACT = ContractRules()


@given(SETTINGS)
def test_whatever_passes_the_checks_is_a_plan_that_says_the_same(settings: HttpSettings) -> None:
    problems = list(check_http_settings(settings, "settings"))
    if CONTRACT.violations(settings) or problems:
        return

    plan = http_plan_of(settings, ANYWHERE)

    assert hash(plan) == hash(http_plan_of(settings, list(ANYWHERE)))
    assert plan.window == (settings.window or 256)
    assert plan.settings.respect_robots is not settings.robots_ignored
    assert set(settings.https_ports) <= plan.settings.ports
    assert [name for name, _ in plan.settings.headers if name] == (
        [it.name for it in settings.headers if it.value] if settings.headers else ["Accept"]
    )
    for lane in plan.retry.lanes.values():
        assert lane.delay <= lane.max_delay
    assert len(plan.policy.allowed) == len(settings.allowed_networks)


def test_who_asks_by_default_is_said_by_the_installation() -> None:
    agent = default_user_agent({"HTTP_CONTACT": "https://acme.example/bot"})

    assert agent == "domainflow/0.1 (+https://acme.example/bot)"
    assert default_user_agent({}) == http_plan_of(HttpSettings()).settings.user_agent
    with pytest.raises(BadEnvironment, match="HTTP_CONTACT"):
        default_user_agent({"HTTP_CONTACT": "line\nend"})
