from collections import Counter

import pytest

from domainflow.campaign.v1 import campaign_pb2
from domainflow.query.v1.stream_pb2 import EnrichedBatch
from domainflow.validation.v1 import dns_pb2
from domainflow.validation.v1.dns_settings_pb2 import DnsSettings
from services.cli.demo import (
    TLDS,
    Check,
    accounting_errors,
    expected_names,
    prefix_length,
    request,
)
from services.sandbox.truth import Mix, truth

NAMES = 400
SEED = 3


def right_rows(names: int = NAMES) -> EnrichedBatch:
    batch = EnrichedBatch(domain_count=names)
    for name in expected_names(names):
        true = truth(name, SEED, Mix())
        batch.names.append(name)
        batch.dns_verdicts.append(dns_pb2.DnsVerdict.ValueType(true.verdict))
        batch.addresses.append(",".join(true.addresses))
    return batch


def checked(*batches: EnrichedBatch) -> Check:
    check = Check(expected_names(NAMES), SEED)
    for batch in batches:
        check.take(batch)
    check.finish()
    return check


def test_names_are_distinct_and_as_many_as_asked_for() -> None:
    names = list(expected_names(10_000))

    assert len(set(names)) == 10_000
    assert names[:4] == ["aaademo.com", "aaademo.net", "aaademo.org", "aabdemo.com"]


@pytest.mark.parametrize("names", [1, 108, 109, 100_000, 10_000_000])
def test_pattern_is_the_shortest_that_makes_so_many(names: int) -> None:
    length = prefix_length(names)

    assert 36**length * len(TLDS) >= names
    assert length == 1 or 36 ** (length - 1) * len(TLDS) < names
    assert request(names, DnsSettings()).configuration.generation.pattern.name_count == names


def test_right_rows_have_no_mistake() -> None:
    check = checked(right_rows())

    assert check.wrong == 0
    assert check.verdicts.total() == NAMES
    assert len(check.verdicts) > 3


@pytest.mark.parametrize("spoiled", ["verdict", "address", "name", "missing", "surplus", "pending"])
def test_one_spoiled_row_is_found(spoiled: str) -> None:
    rows = right_rows()
    row = next(i for i, verdict in enumerate(rows.dns_verdicts) if verdict == 1)
    match spoiled:
        case "verdict":
            rows.dns_verdicts[row] = dns_pb2.DNS_VERDICT_NXDOMAIN
        case "address":
            rows.addresses[row] = "127.0.0.1"
        case "name":
            rows.names[row] = "other.com"
        case "missing":
            rows.domain_count -= 1
            del rows.names[-1], rows.dns_verdicts[-1], rows.addresses[-1]
        case "surplus":
            rows.domain_count += 1
            rows.names.append("other.com")
            rows.dns_verdicts.append(dns_pb2.DNS_VERDICT_RESOLVED)
            rows.addresses.append("")
        case "pending":
            rows.dns_verdicts[row] = dns_pb2.DNS_VERDICT_UNSPECIFIED

    check = checked(rows)

    assert check.wrong == 1
    assert len(check.mistakes) == 1


def test_mistakes_are_counted_all_and_named_but_few() -> None:
    rows = right_rows()
    for row in range(NAMES):
        rows.names[row] = "other.com"

    check = checked(rows)

    assert check.wrong == NAMES
    assert len(check.mistakes) == 10


def account(**counts: int) -> campaign_pb2.Receipt:
    outcomes = [campaign_pb2.OutcomeCount(outcome=o, count=c) for o, c in counts.items()]
    return campaign_pb2.Receipt(
        balanced=True,
        phases=[
            campaign_pb2.PhaseReceipt(
                phase=campaign_pb2.PHASE_DOMAIN_GENERATION,
                name_count=10,
                outcomes=[campaign_pb2.OutcomeCount(outcome="GENERATED", count=10)],
            ),
            campaign_pb2.PhaseReceipt(
                phase=campaign_pb2.PHASE_DNS_VALIDATION, name_count=10, outcomes=outcomes
            ),
        ],
    )


def test_receipt_that_agrees_with_the_rows_is_right() -> None:
    rows = Counter(RESOLVED=6, NXDOMAIN=4)

    assert accounting_errors(account(RESOLVED=6, NXDOMAIN=4), 10, rows) == []


@pytest.mark.parametrize(
    ("counts", "balanced"),
    [
        ({"RESOLVED": 6, "NXDOMAIN": 4}, False),
        ({"RESOLVED": 6, "NXDOMAIN": 3}, True),
        ({"RESOLVED": 5, "NXDOMAIN": 5}, True),
    ],
    ids=["not balanced", "one name short", "other verdicts"],
)
def test_receipt_that_is_wrong_is_found(counts: dict[str, int], balanced: bool) -> None:
    receipt = account(**counts)
    receipt.balanced = balanced

    assert accounting_errors(receipt, 10, Counter(RESOLVED=6, NXDOMAIN=4))
