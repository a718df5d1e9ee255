"""What is wrong with settings, field by field."""

import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration

from domainflow.validation.v1.dns_pb2 import (
    RECORD_TYPE_AAAA,
    RECORD_TYPE_MX,
)
from domainflow.validation.v1.dns_settings_pb2 import (
    DNS_TRANSPORT_HTTPS,
    DNS_TRANSPORT_HTTPS_JSON,
    DNS_TRANSPORT_SYSTEM,
    DNS_TRANSPORT_TCP,
    DNS_TRANSPORT_TLS,
    AuthoritySettings,
    Canary,
    DnsResolver,
    DnsSettings,
    RetryLane,
    SecondOpinion,
)
from services.chassis.dns_settings import check_settings, label_of
from services.chassis.endpoint import operator_of

URL = "https://dns.google/dns-query"


def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime(2026, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def https(**more: Any) -> DnsResolver:
    return DnsResolver(
        **({"address": "8.8.8.8", "transport": DNS_TRANSPORT_HTTPS, "url": URL} | more)
    )


def tls(**more: Any) -> DnsResolver:
    return DnsResolver(address="9.9.9.9", transport=DNS_TRANSPORT_TLS, **more)


def of(*resolvers: DnsResolver, **more: Any) -> DnsSettings:
    return DnsSettings(resolvers=resolvers, **more)


def opinion(policy: SecondOpinion.Policy.ValueType, *resolvers: DnsResolver) -> DnsSettings:
    return of(*resolvers, second_opinion=SecondOpinion(policy=policy))


def lane(
    reason: RetryLane.Reason.ValueType, delay: float | None = None, limit: float | None = None
) -> RetryLane:
    made = RetryLane(reason=reason)
    if delay is not None:
        made.delay.FromNanoseconds(round(delay * 1e9))
    if limit is not None:
        made.max_delay.FromNanoseconds(round(limit * 1e9))
    return made


def canary(name: str, kind: Canary.Kind.ValueType = Canary.KIND_GOOD) -> Canary:
    return Canary(kind=kind, name=name)


ONE, TWO = DnsResolver(address="192.0.2.1"), DnsResolver(address="192.0.3.1")
NEAR = DnsResolver(address="192.0.2.2")
SYSTEM = DnsResolver(transport=DNS_TRANSPORT_SYSTEM)

GOOD = {
    "nothing": DnsSettings(),
    "every transport": of(
        ONE,
        DnsResolver(address="192.0.2.1", transport=DNS_TRANSPORT_TCP),
        tls(tls_name="dns.quad9.net"),
        https(address="8.8.4.4"),
        https(),
        https(
            address="[2001:db8::1]:8443",
            transport=DNS_TRANSPORT_HTTPS_JSON,
            url="https://[2001:db8::1]:8443/resolve",
        ),
        SYSTEM,
    ),
    "own certificates": of(tls(ca_pem=certificate() * 2), https(ca_pem=certificate())),
    "only IPv6 addresses": DnsSettings(record_types=[RECORD_TYPE_AAAA, RECORD_TYPE_MX]),
    "two networks": opinion(SecondOpinion.POLICY_ALL, ONE, TWO),
    "two operators": opinion(
        SecondOpinion.POLICY_ODD, ONE, DnsResolver(address="192.0.2.2", operator="other")
    ),
    "the machine's and another": opinion(SecondOpinion.POLICY_ODD, ONE, SYSTEM),
    "no opinion of one": opinion(SecondOpinion.POLICY_NONE, ONE),
    "what can be had of one": opinion(SecondOpinion.POLICY_UNSPECIFIED, ONE),
    "lanes": DnsSettings(
        retry_lanes=[
            lane(RetryLane.REASON_TIMEOUT, 0.5),
            lane(RetryLane.REASON_SERVFAIL, 5, 60),
            lane(RetryLane.REASON_ERROR, 0, 0),
        ]
    ),
    "root servers": DnsSettings(
        authority=AuthoritySettings(root_servers=["192.0.2.1", "[::1]:54"])
    ),
    "canaries": DnsSettings(canaries=[canary("*.com", Canary.KIND_NXDOMAIN), canary("A.com.")]),
}

BAD: dict[str, tuple[DnsSettings, set[str]]] = {
    "no address": (of(DnsResolver()), {"resolvers[0].address"}),
    "a name": (of(DnsResolver(address="dns.google")), {"resolvers[0].address"}),
    "a port of 0": (of(DnsResolver(address="1.1.1.1:0")), {"resolvers[0].address"}),
    "an address of the machine's": (
        of(DnsResolver(transport=DNS_TRANSPORT_SYSTEM, address="1.1.1.1")),
        {"resolvers[0].address"},
    ),
    "no url": (of(https(url="")), {"resolvers[0].url"}),
    "http": (of(https(url="http://dns.google/dns-query")), {"resolvers[0].url"}),
    "no path": (of(https(url="https://dns.google/")), {"resolvers[0].url"}),
    "no host": (of(https(url="https:///dns-query")), {"resolvers[0].url"}),
    "a query": (of(https(url=URL + "?dns=")), {"resolvers[0].url"}),
    "a template": (of(https(url=URL + "{?dns}")), {"resolvers[0].url"}),
    "a user": (of(https(url="https://u@dns.google/dns-query")), {"resolvers[0].url"}),
    "a line break": (of(https(url="https://dns.google/dns\r\n-query")), {"resolvers[0].url"}),
    "a bad port": (of(https(url="https://dns.google:x/dns-query")), {"resolvers[0].url"}),
    "a url for UDP": (of(DnsResolver(address="1.1.1.1", url=URL)), {"resolvers[0].url"}),
    "a TLS name for TCP": (
        of(DnsResolver(address="1.1.1.1", transport=DNS_TRANSPORT_TCP, tls_name="a.b")),
        {"resolvers[0].tls_name"},
    ),
    "a bad TLS name": (of(tls(tls_name="a b")), {"resolvers[0].tls_name"}),
    "certificates for UDP": (
        of(DnsResolver(address="1.1.1.1", ca_pem=certificate())),
        {"resolvers[0].ca_pem"},
    ),
    "no certificates": (of(tls(ca_pem="PEM")), {"resolvers[0].ca_pem"}),
    "half a certificate": (of(tls(ca_pem=certificate()[:200])), {"resolvers[0].ca_pem"}),
    "a NUL": (of(DnsResolver(address="1.1.1.1", operator="\0")), {"resolvers[0].operator"}),
    "one twice": (of(ONE, TWO, DnsResolver(address="192.0.2.1:53")), {"resolvers[2]"}),
    "the machine's twice": (of(SYSTEM, ONE, SYSTEM), {"resolvers[2]"}),
    "one place in two formats": (
        of(https(), https(transport=DNS_TRANSPORT_HTTPS_JSON)),
        {"resolvers[1]"},
    ),
    "no addresses asked for": (DnsSettings(record_types=[RECORD_TYPE_MX]), {"record_types"}),
    "one operator": (opinion(SecondOpinion.POLICY_ODD, ONE, NEAR), {"second_opinion.policy"}),
    "the machine's alone": (
        opinion(SecondOpinion.POLICY_POSITIVES_AND_ODD, SYSTEM),
        {"second_opinion.policy"},
    ),
    "nobody": (opinion(SecondOpinion.POLICY_ALL), {"second_opinion.policy"}),
    "one lane twice": (
        DnsSettings(retry_lanes=[lane(RetryLane.REASON_ERROR), lane(RetryLane.REASON_ERROR)]),
        {"retry_lanes[1].reason"},
    ),
    "a delay beyond its limit": (
        DnsSettings(retry_lanes=[lane(RetryLane.REASON_ERROR, 2, 1.5)]),
        {"retry_lanes[0].delay"},
    ),
    "a delay of ages": (
        DnsSettings(retry_lanes=[RetryLane(delay=Duration(seconds=1 << 62))]),
        {"retry_lanes[0].delay"},
    ),
    "a delay beyond the default limit": (
        DnsSettings(retry_lanes=[lane(RetryLane.REASON_ERROR, 1.5)]),
        {"retry_lanes[0].delay"},
    ),
    "a root server's name": (
        DnsSettings(authority=AuthoritySettings(root_servers=["192.0.2.1", "root"])),
        {"authority.root_servers[1]"},
    ),
    "bad canaries": (
        DnsSettings(canaries=[canary("a b.com"), canary("a.*.com"), canary("*"), canary("*.")]),
        {f"canaries[{n}].name" for n in range(4)},
    ),
    "one canary twice": (DnsSettings(canaries=[canary("a.com"), canary("A.com")]), {"canaries[1]"}),
}


@pytest.mark.parametrize("settings", GOOD.values(), ids=GOOD.keys())
def test_good_settings_pass(settings: DnsSettings) -> None:
    assert list(check_settings(settings, "settings")) == []


@pytest.mark.parametrize(("settings", "fields"), BAD.values(), ids=BAD.keys())
def test_every_bad_field_is_named(settings: DnsSettings, fields: set[str]) -> None:
    found = {violation.field for violation in check_settings(settings, "persona.settings")}

    assert found == {f"persona.settings.{field}" for field in fields}


def test_resolvers_that_take_the_place_of_others_are_the_ones_whose_operators_count() -> None:
    settings = opinion(SecondOpinion.POLICY_ALL, ONE, NEAR)

    assert not list(check_settings(settings, "s", resolvers=["192.0.2.1", "192.0.3.1"]))
    settings = opinion(SecondOpinion.POLICY_ALL, ONE, TWO)
    (violation,) = check_settings(settings, "s", resolvers=["192.0.2.1", "192.0.2.2"])
    assert violation.field == "s.second_opinion.policy"


@pytest.mark.parametrize(
    ("resolver", "label"),
    [
        (ONE, "192.0.2.1:53"),
        (DnsResolver(address="2001:DB8::1", transport=DNS_TRANSPORT_TCP), "tcp://[2001:db8::1]:53"),
        (tls(), "tls://9.9.9.9:853"),
        (https(), f"{URL}#8.8.8.8:443"),
        (SYSTEM, None),
    ],
)
def test_resolvers_are_called_what_workers_call_them(
    resolver: DnsResolver, label: str | None
) -> None:
    from services.validation.plans import plan_of_settings

    assert label_of(resolver) == label
    if label is not None:
        (planned,) = plan_of_settings(of(resolver)).resolvers
        assert str(planned) == label


def test_well_known_resolvers_have_one_operator_wherever_they_are() -> None:
    assert operator_of("8.8.8.8") == operator_of("2001:4860:4860:0::8844") == "google"
    assert operator_of("192.0.2.1") == operator_of("192.0.2.200") != operator_of("192.0.3.1")
    assert operator_of("2001:db8:1::1") == operator_of("2001:db8:1:2::1")


def test_time_of_lanes_is_compared_exactly() -> None:
    made = RetryLane(reason=RetryLane.REASON_ERROR, delay=Duration(seconds=1))

    assert not list(check_settings(DnsSettings(retry_lanes=[made]), "s"))
