"""Options of a filter: what people type becomes the contract's DomainFilter."""

import pytest
import typer

from domainflow.query.v1.filter_pb2 import DomainFilter
from domainflow.validation.v1 import http_pb2
from services.cli.filter_options import domain_filter, word


def test_no_option_is_no_filter() -> None:
    assert domain_filter() == DomainFilter()


def test_every_option_is_a_field() -> None:
    assert domain_filter(
        verdict=["resolved", "RESOLVED"],
        http=["not-found", "OK"],
        lead=["QUALIFIED"],
        reason=["LOW_SCORE"],
        min_score=0.25,
        max_score=1.0,
        tld=[".COM", "com", "net"],
        prefix="Shop",
        contains="Ab",
        keyword=["loan", "loan"],
        warning=["REPETITION"],
        warnings=True,
    ) == DomainFilter(
        dns_verdicts=[1],
        http_verdicts=[9, 1],
        lead_statuses=[1],
        lead_reasons=[2],
        min_score=0.25,
        max_score=1.0,
        tlds=["com", "net"],
        name_prefix="shop",
        name_contains="ab",
        keywords=["loan"],
        warnings=[2],
        has_warnings=True,
    )
    assert domain_filter(pending=True) == DomainFilter(dns_pending=True)
    assert domain_filter(warnings=False).HasField("has_warnings")


def test_unknown_word_is_refused_with_those_there_are() -> None:
    with pytest.raises(typer.BadParameter, match="--lead: no 'MAYBE'; there are QUALIFIED"):
        domain_filter(lead=["maybe"])


def test_number_is_shown_as_its_word() -> None:
    assert word(http_pb2.HttpVerdict, 9) == "NOT_FOUND"
    assert word(http_pb2.HttpVerdict, 99) == "99"
    assert word(http_pb2.HttpVerdict, 0) == ""
