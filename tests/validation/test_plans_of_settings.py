"""Plans from settings: each field arrives, and what is left open takes its default."""

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from domainflow.validation.v1 import dns_pb2
from domainflow.validation.v1 import dns_settings_pb2 as pb
from services.validation.dns import wire
from services.validation.dns.plan import (
    Canary,
    CanaryKind,
    Delegations,
    Examination,
    OpinionPolicy,
    Plan,
)
from services.validation.dns.resolvers import Resolver, Transport, system_resolvers
from services.validation.dns.settings import EngineSettings, Lane, Strategy
from services.validation.dns.verdict import Verdict
from services.validation.plans import plan_of, plan_of_settings

MS = 1_000_000
EVERYTHING = pb.DnsSettings(
    resolvers=[
        pb.DnsResolver(
            address="192.0.2.1",
            transport=pb.DNS_TRANSPORT_HTTPS,
            url="https://dns.example/dns-query",
            tls_name="dns.example",
            ca_pem="PEM",
            operator="us",
            weight=7,
            rate_limit=8,
            in_flight_limit=9,
        )
    ],
    strategy=pb.DNS_STRATEGY_FAILOVER,
    timeout=Duration(nanos=250 * MS),
    attempt_limit=3,
    window=77,
    record_types=[dns_pb2.RECORD_TYPE_MX, dns_pb2.RECORD_TYPE_AAAA, dns_pb2.RECORD_TYPE_A],
    second_opinion=pb.SecondOpinion(policy=pb.SecondOpinion.POLICY_ODD, positive_percent=10),
    wildcard_detection=pb.WildcardDetection(disabled=True, probe_limit=5),
    retry_lanes=[
        pb.RetryLane(reason=pb.RetryLane.REASON_TIMEOUT),
        pb.RetryLane(
            reason=pb.RetryLane.REASON_REFUSED,
            attempt_limit=2,
            delay=Duration(nanos=20 * MS),
            max_delay=Duration(nanos=30 * MS),
        ),
        pb.RetryLane(reason=pb.RetryLane.REASON_ERROR, max_delay=Duration()),
    ],
    authority=pb.AuthoritySettings(root_servers=["192.0.2.53:5353"], port=5354),
    canaries=[pb.Canary(kind=pb.Canary.KIND_TRUNCATED, name="Big.example")],
    canary_period=Duration(seconds=5),
    rate_limit=100,
    in_flight_limit=10,
)


def test_every_field_arrives() -> None:
    plan = plan_of_settings(EVERYTHING)

    # No more than attempt_limit.
    soft = min(EngineSettings().soft_tries, 3)
    assert plan == Plan(
        (
            Resolver(
                "192.0.2.1",
                443,
                Transport.HTTPS,
                "https://dns.example/dns-query",
                "dns.example",
                "PEM",
                "us",
                7,
                8,
                9,
            ),
        ),
        EngineSettings(
            window=77,
            timeout=0.25,
            tries=3,
            strategy=Strategy.FAILOVER,
            lanes=(
                Lane(Verdict.TIMEOUT, 3, 0.0, 1.0),
                Lane(Verdict.REFUSED, 2, 0.02, 0.03),
                Lane(Verdict.ERROR, soft, 0.0, 0.0),
            ),
            rate_limit=100,
            in_flight_limit=10,
        ),
        Examination(
            qtypes=(wire.A, wire.AAAA, wire.MX),
            opinion=OpinionPolicy.ODD,
            positive_percent=10,
            wildcards=False,
            wildcard_probes=5,
            delegations=Delegations((("192.0.2.53", 5353),), 5354),
            canaries=(Canary(CanaryKind.TRUNCATED, "big.example"),),
            canary_period=5.0,
        ),
    )


def test_what_is_left_open_takes_its_default() -> None:
    assert plan_of_settings(pb.DnsSettings()) == Plan(system_resolvers())
    assert plan_of(DnsConfiguration()) == Plan(system_resolvers())


def test_canaries_and_delegations_can_be_left_out() -> None:
    settings = pb.DnsSettings(
        canaries_disabled=True, authority=pb.AuthoritySettings(disabled=True, port=1)
    )

    examination = plan_of_settings(settings).examination

    assert examination.canaries == ()
    assert examination.delegations is None


def test_the_machines_resolvers_stand_where_they_are_named() -> None:
    first = pb.DnsResolver(address="192.0.2.1")
    system = pb.DnsResolver(transport=pb.DNS_TRANSPORT_SYSTEM, weight=5, operator="ours")

    resolvers = plan_of_settings(pb.DnsSettings(resolvers=[first, system])).resolvers

    assert resolvers[0] == Resolver("192.0.2.1")
    assert [(it.host, it.port, it.weight, it.operator) for it in resolvers[1:]] == [
        (it.host, it.port, 5, "ours") for it in system_resolvers()
    ]


def test_a_configurations_own_fields_take_the_place_of_the_settings() -> None:
    dns = DnsConfiguration(
        settings=EVERYTHING,
        resolvers=["192.0.2.7", "192.0.2.7:53"],
        timeout=Duration(seconds=2),
        attempt_limit=9,
        window=1,
    )

    plan = plan_of(dns)

    assert plan.resolvers == (Resolver("192.0.2.7"),)
    assert (plan.engine.timeout, plan.engine.tries, plan.engine.window) == (2.0, 9, 1)
    assert plan.examination == plan_of_settings(EVERYTHING).examination
    assert plan_of(DnsConfiguration(settings=EVERYTHING)) == plan_of_settings(EVERYTHING)


def test_equal_configurations_are_read_once() -> None:
    one, same = DnsConfiguration(settings=EVERYTHING), DnsConfiguration(settings=EVERYTHING)

    assert plan_of(one) is plan_of(same)
