"""Commands about proxies and the suppression list, as a script meets them."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from domainflow.validation.v1 import (
    proxy_pb2,
    suppression_pb2,
    validation_service_pb2_grpc,
)
from services.cli.__main__ import app

ID = "01890000-0000-7000-8000-000000000001"
OTHER = ID[:-1] + "2"
POOL = ID[:-1] + "3"


class Validation(validation_service_pb2_grpc.ValidationServiceServicer):
    """Two proxies and a pool; nobody at example.org wants anything. Remembers what is changed."""

    def __init__(self, rejected: int = 0) -> None:
        self.requests: list[Any] = []
        self.rejected = rejected

    def ListProxies(self, request: Any, context: Any) -> Any:
        first = not request.page_token
        proxy = proxy_pb2.Proxy(
            proxy_id=ID if first else OTHER, url=f"http://192.0.2.{1 if first else 2}:3128"
        )
        token = "next" if first else ""
        return proxy_pb2.ListProxiesResponse(proxies=[proxy], next_page_token=token)

    def ListProxyPools(self, request: Any, context: Any) -> Any:
        pool = proxy_pb2.ProxyPool(proxy_pool_id=POOL, name="far")
        return proxy_pb2.ListProxyPoolsResponse(proxy_pools=[pool])

    def ImportProxies(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        lines = [
            proxy_pb2.RejectedLine(line_number=n + 1, reason="is no proxy")
            for n in range(min(self.rejected, 2))
        ]
        return proxy_pb2.ImportProxiesResponse(
            created_count=2, present_count=1, rejected_lines=lines, rejected_count=self.rejected
        )

    def TestProxies(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        tests = [proxy_pb2.ProxyTest(proxy_id=it, worked=it == ID) for it in request.proxy_ids]
        return proxy_pb2.TestProxiesResponse(proxy_tests=tests)

    def BulkUpdateProxies(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return proxy_pb2.BulkUpdateProxiesResponse(updated_count=len(request.proxy_ids))

    def BulkDeleteProxies(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return proxy_pb2.BulkDeleteProxiesResponse(deleted_count=len(request.proxy_ids))

    def AddSuppressions(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        count = len(request.suppressions)
        return suppression_pb2.AddSuppressionsResponse(created_count=count)

    def RemoveSuppressions(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return suppression_pb2.RemoveSuppressionsResponse(removed_count=1)

    def ListSuppressions(self, request: Any, context: Any) -> Any:
        entry = "b.com" if request.page_token else "a.com"
        return suppression_pb2.ListSuppressionsResponse(
            suppressions=[suppression_pb2.Suppression(entry=entry, scope=2)],
            next_page_token="" if request.page_token else "next",
        )

    def CheckSuppressions(self, request: Any, context: Any) -> Any:
        found = []
        for value in request.values:
            each = suppression_pb2.CheckedSuppression(value=value)
            if value.endswith("example.org"):
                each.suppression.entry = "example.org"
            found.append(each)
        return suppression_pb2.CheckSuppressionsResponse(checked_suppressions=found)


def run(serve: Any, validation: Validation, *arguments: str, input: str = "") -> Result:
    address = serve(validation=validation)
    return CliRunner().invoke(app(), [*arguments, "--server", address], input=input)


@pytest.mark.parametrize(("rejected", "code"), [(0, 0), (5, 1)])
def test_proxies_are_imported_into_a_pool(serve: Any, rejected: int, code: int) -> None:
    validation = Validation(rejected)
    arguments = ("proxies", "import", "-", "--pool", "far", "--scheme", "socks5")

    result = run(serve, validation, *arguments, input="192.0.2.1:1080:me:secret\n")

    assert result.exit_code == code
    (request,) = validation.requests
    assert request.document == "192.0.2.1:1080:me:secret\n"
    assert (request.default_scheme, request.proxy_pool_id) == ("socks5", POOL)
    assert "proxies: 2 new, 1 known already" in result.stderr
    assert ("and 3 lines more" in result.stderr) == bool(rejected)
    assert "secret" not in result.output


def test_all_proxies_are_listed_and_tested(serve: Any) -> None:
    validation = Validation()

    listed = run(serve, validation, "proxies", "list")
    tested = run(serve, validation, "proxies", "test", "https://example.com/")

    assert [json.loads(it)["proxyId"] for it in listed.stdout.splitlines()] == [ID, OTHER]
    (request,) = validation.requests
    assert (list(request.proxy_ids), request.url) == ([ID, OTHER], "https://example.com/")
    assert tested.exit_code == 1
    assert "1 of 2 work" in tested.stderr


@pytest.mark.parametrize(("command", "disabled"), [("enable", False), ("disable", True)])
def test_proxies_are_switched_by_url_or_id(serve: Any, command: str, disabled: bool) -> None:
    validation = Validation()

    result = run(serve, validation, "proxies", command, "http://192.0.2.2:3128", ID)

    assert result.exit_code == 0, result.stderr
    expected = proxy_pb2.BulkUpdateProxiesRequest(proxy_ids=[OTHER, ID], disabled=disabled)
    assert validation.requests == [expected]


def test_a_proxy_that_is_not_there_is_named_and_none_is_deleted(serve: Any) -> None:
    validation = Validation()

    result = run(serve, validation, "proxies", "delete", ID, "http://192.0.2.9:1")

    assert result.exit_code == 1
    assert "there is no proxy http://192.0.2.9:1" in result.stderr
    assert validation.requests == []


def test_a_long_list_is_suppressed_in_portions(serve: Any) -> None:
    validation = Validation()
    text = "# asked by mail\n" + "".join(f"n{number}.com\n\n" for number in range(5_001))
    arguments = ("suppressions", "add", "--file", "-", "--scope", "fetch", "--reason", "mail")

    result = run(serve, validation, *arguments, input=text)

    assert result.exit_code == 0, result.stderr
    assert [len(request.suppressions) for request in validation.requests] == [5_000, 1]
    first = validation.requests[0].suppressions[0]
    assert (first.entry, first.scope, first.reason) == ("n0.com", 2, "mail")
    assert "5,001 new" in result.stderr


def test_the_list_is_written_page_by_page_and_entries_leave_it(serve: Any) -> None:
    validation = Validation()

    listed = run(serve, validation, "suppressions", "list")
    removed = run(serve, validation, "suppressions", "remove", "a.com", "x.com")

    assert [json.loads(it)["entry"] for it in listed.stdout.splitlines()] == ["a.com", "b.com"]
    assert removed.stderr == "1 of 2 entries removed\n"


@pytest.mark.parametrize(("value", "code"), [("info@example.org", 1), ("example.com", 0)])
def test_whoever_is_suppressed_is_found(serve: Any, value: str, code: int) -> None:
    result = run(serve, Validation(), "suppressions", "check", value)

    assert result.exit_code == code
    assert json.loads(result.stdout)["value"] == value
