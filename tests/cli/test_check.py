"""`domainflow check` and `domains get`: what is asked for, and what is shown."""

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from domainflow.validation.v1 import (
    dns_pb2,
    http_pb2,
    keyword_pb2,
    lead_pb2,
    page_pb2,
    validation_service_pb2_grpc,
)
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from services.cli import evidence
from services.cli.__main__ import app
from tests.cli.processes import process


class Validation(validation_service_pb2_grpc.ValidationServiceServicer):
    """Every name is NXDOMAIN; remembers how it was asked."""

    def __init__(self) -> None:
        self.starts: list[pb.ValidateStart] = []
        self.batches: list[list[str]] = []

    def ListDnsPersonas(self, request: Any, context: Any) -> Any:
        slow = DnsPersona(name="slow", dns_persona_id="01890000-0000-7000-8000-000000000001")
        return pb.ListDnsPersonasResponse(dns_personas=[slow])

    def ValidateDomains(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self.starts.append(next(requests).start)
        for number, request in enumerate(requests):
            names = list(request.batch.names)
            self.batches.append(names)
            result = dns_pb2.DnsResult(verdict=dns_pb2.DNS_VERDICT_NXDOMAIN)
            found = [pb.ValidatedName(index=i, name=n, dns=result) for i, n in enumerate(names)]
            yield pb.ValidateDomainsResponse(
                results=pb.ValidateResults(batch_number=number, names=found)
            )
        count = sum(map(len, self.batches))
        counts = [pb.VerdictCount(verdict=dns_pb2.DNS_VERDICT_NXDOMAIN, count=count)]
        yield pb.ValidateDomainsResponse(
            summary=pb.ValidateSummary(name_count=count, verdict_counts=counts)
        )


def test_names_are_checked_and_come_as_ndjson(serve: Callable[..., str]) -> None:
    validation = Validation()
    arguments = ["--resolver", "192.0.2.1", "--server", serve(validation=validation)]

    done = CliRunner().invoke(app(), ["check", "a.com", "b.com", *arguments])

    assert done.exit_code == 0, done.stderr
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["a.com", "b.com"]
    assert "2 names" in done.stderr
    assert "2 NXDOMAIN" in done.stderr
    (start,) = validation.starts
    assert [it.address for it in start.settings.resolvers] == ["192.0.2.1"]


def test_names_come_from_a_list_too(serve: Callable[..., str], tmp_path: Path) -> None:
    validation = Validation()
    (tmp_path / "names").write_text("".join(f"n{number}.com\n\n" for number in range(250)))
    arguments = ["--file", str(tmp_path / "names"), "--server", serve(validation=validation)]

    done = CliRunner().invoke(app(), ["check", *arguments])

    assert done.exit_code == 0, done.stderr
    assert [name for batch in validation.batches for name in batch] == [
        f"n{number}.com" for number in range(250)
    ]


def test_names_in_a_pipe_are_answered_while_it_is_open(serve: Callable[..., str]) -> None:
    address = serve(validation=Validation())
    with process("check", "--file", "-", "--server", address, stdin=subprocess.PIPE) as command:
        assert command.stdin is not None
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdin.write("first.com\n")
        command.stdin.flush()
        first = json.loads(command.stdout.readline())
        command.stdin.write("second.com")
        command.stdin.close()
        second = json.loads(command.stdout.readline())
        said = command.stderr.read()

    assert (first["name"], second["name"], command.returncode) == ("first.com", "second.com", 0)
    assert "2 names" in said


def test_a_list_that_is_not_there_is_named(serve: Callable[..., str], tmp_path: Path) -> None:
    arguments = ["--file", str(tmp_path / "none"), "--server", serve(validation=Validation())]

    done = CliRunner().invoke(app(), ["check", *arguments])

    assert done.exit_code == 1
    assert str(tmp_path / "none") in done.stderr


@pytest.mark.parametrize("called", ["slow", "01890000-0000-7000-8000-000000000001"])
def test_a_persona_goes_without_resolvers(serve: Callable[..., str], called: str) -> None:
    validation = Validation()
    address = serve(validation=validation)

    done = CliRunner().invoke(app(), ["check", "a.com", "--persona", called, "--server", address])
    both = CliRunner().invoke(
        app(), ["check", "a.com", "--persona", called, "--resolver", "192.0.2.1"]
    )

    assert done.exit_code == 0, done.stderr
    (start,) = validation.starts
    assert start == pb.ValidateStart(dns_persona_id="01890000-0000-7000-8000-000000000001")
    assert both.exit_code == 2


DOMAIN = query_service_pb2.Domain(
    position=7,
    name="a.com",
    dns=dns_pb2.DnsResult(
        verdict=dns_pb2.DNS_VERDICT_WILDCARD,
        addresses=["192.0.2.7"],
        registered=dns_pb2.DNS_FACT_NO,
        agreement=dns_pb2.DNS_AGREEMENT_DECIDED_BY_AUTHORITY,
        evidence=dns_pb2.DnsEvidence(
            reason="as every name below com",
            records=[
                dns_pb2.RecordResult(
                    type=dns_pb2.RECORD_TYPE_MX,
                    verdict=dns_pb2.DNS_VERDICT_RESOLVED,
                    records=["10 mail.a.com"],
                )
            ],
            opinions=[
                dns_pb2.DnsOpinion(
                    resolver="192.0.2.53:53", operator="b", verdict=dns_pb2.DNS_VERDICT_SERVFAIL
                )
            ],
            wildcard=dns_pb2.WildcardEvidence(parent="com", answers=["192.0.2.7"], probe_count=3),
            authority_steps=[
                dns_pb2.AuthorityStep(zone=".", server="192.0.2.4:53", answer="refers to com")
            ],
        ),
    ),
)


class Rows(query_service_pb2_grpc.QueryServiceServicer):
    def GetDomain(self, request: Any, context: Any) -> Any:
        return query_service_pb2.GetDomainResponse(domain=DOMAIN)


def test_a_domain_is_shown_as_json(serve: Callable[..., str]) -> None:
    address = serve(rows=Rows())

    shown = CliRunner().invoke(app(), ["domains", "get", "c", "7", "--server", address])

    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["dns"]["evidence"]["wildcard"]["parent"] == "com"


def test_people_see_every_kind_of_evidence() -> None:
    console = Console(file=io.StringIO(), width=200)

    for table in evidence.tables(DOMAIN):
        console.print(table)

    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "WILDCARD",
        "as every name below com",
        "decided by authority",
        "10 mail.a.com",
        "SERVFAIL",
        "3 random names",
        "refers to com",
    ):
        assert part in text


class Losing(validation_service_pb2_grpc.ValidationServiceServicer):
    """Refuses streams, and loses why to those who still write, as grpc.aio does now and then."""

    def ValidateDomains(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        if len(list(requests)) > 1:
            context.abort(grpc.StatusCode.INTERNAL, "Internal error from Core")
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "start.settings.resolvers[0]: is bad")
        yield


def test_a_refusal_is_told_though_the_call_has_lost_it(serve: Callable[..., str]) -> None:
    server = ["--server", serve(validation=Losing())]

    done = CliRunner().invoke(app(), ["check", "a.com", "--resolver", "bad", *server])

    assert done.exit_code == 2
    assert "start.settings.resolvers[0]: is bad" in done.stderr


def test_pages_are_asked_for_with_what_is_looked_for(serve: Callable[..., str]) -> None:
    validation = Validation()
    options = ["--http", "--keyword", "shop", "--expression", "shop"]
    server = ["--server", serve(validation=validation)]

    done = CliRunner().invoke(app(), ["check", "a.com", *options, *server])
    without = CliRunner().invoke(app(), ["check", "a.com", *server])
    implied = CliRunner().invoke(app(), ["check", "a.com", "--expression", "shop", *server])

    assert (done.exit_code, without.exit_code) == (0, 0), done.stderr
    choice = keyword_pb2.KeywordChoice(keywords=["shop"], expression="shop")
    first, second, third = validation.starts
    assert first.http == pb.HttpCheck(keywords=choice)
    assert not second.HasField("http")
    # The service says what is wrong with it; left out in silence it would seem to hold.
    assert implied.exit_code == 0
    assert third.http.keywords.expression == "shop"


def test_a_page_is_shown_with_its_hits_and_contacts() -> None:
    http = http_pb2.HttpResult(verdict=http_pb2.HTTP_VERDICT_OK, status_code=200, title="[Shop]")
    http.evidence.tls.version = "TLSv1.3"
    http.evidence.redirects.add(url="http://a.com/", status_code=301)
    page = page_pb2.PageEvidence(kind=page_pb2.PAGE_KIND_CONTENT, keyword_match=True)
    page.rule_hits.add(rule="sale", hit_count=1234).snippets.add(before="a ", hit="sale")
    page.contacts.add(kind=lead_pb2.CONTACT_KIND_EMAIL, value="info@a.com", confidence=0.9)
    domain = query_service_pb2.Domain(name="a.com", http=http, page=page)
    console = Console(file=io.StringIO(), width=200)

    for table in evidence.tables(domain):
        console.print(table)

    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("[Shop]", "TLSv1.3", "http://a.com/ (301)", "1,234", "a [sale]", "info@a.com"):
        assert shown in text
