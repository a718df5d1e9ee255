"""ValidateDomains through a real port: every name once, in bounded memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence

import grpc
import pytest

from domainflow.validation.v1 import dns_settings_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.validation_service_pb2_grpc import (
    ValidationServiceStub,
    add_ValidationServiceServicer_to_server,
)
from services.chassis.postgres import Pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import truth
from services.validation.check_stream import MAX_IN_PROGRESS
from services.validation.engines import Engines
from services.validation.persona_store import Personas
from services.validation.service import RULES, ValidationService
from services.validation.store import Store
from tests.eventually import eventually
from tests.refusals import read


@pytest.fixture
async def stub(pool: Pool, store: Store, engines: Engines) -> AsyncIterator[ValidationServiceStub]:
    server = grpc.aio.server(interceptors=[CallGuard(rules=RULES, max_calls=10, max_streams=10)])
    service = ValidationService(
        store=store, engines=engines, personas=Personas(pool), seal=Seal([b"k" * 32])
    )
    add_ValidationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # A window that stays small is full soon.
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield ValidationServiceStub(channel)
    await server.stop(0)


def start(sandbox: SandboxDns) -> pb.ValidateDomainsRequest:
    resolver = dns_settings_pb2.DnsResolver(address="{}:{}".format(*sandbox.address))
    settings = dns_settings_pb2.DnsSettings(resolvers=[resolver])
    settings.timeout.FromMilliseconds(300)
    return pb.ValidateDomainsRequest(start=pb.ValidateStart(settings=settings))


def batch(names: Iterable[str]) -> pb.ValidateDomainsRequest:
    return pb.ValidateDomainsRequest(batch=pb.NameBatch(names=names))


async def answers(
    stub: ValidationServiceStub, requests: Sequence[pb.ValidateDomainsRequest]
) -> list[pb.ValidateDomainsResponse]:
    return [answer async for answer in stub.ValidateDomains(iter(requests))]


async def test_every_name_is_answered_once_with_the_verdict_that_is_true(
    stub: ValidationServiceStub, sandbox: SandboxDns
) -> None:
    batches = [[f"name-{part}-{n}.com" for n in range(700)] for part in range(8)]

    *results, last = await answers(stub, [start(sandbox), *map(batch, batches)])

    found = {
        (answer.results.batch_number, name.index): name
        for answer in results
        for name in answer.results.names
    }
    assert sum(len(answer.results.names) for answer in results) == len(found) == 5600
    verdicts = Counter[int]()
    for number, names in enumerate(batches):
        for index, name in enumerate(names):
            right = truth(name, sandbox.settings.seed, sandbox.settings.mix)
            assert found[number, index].name == name
            assert found[number, index].dns.verdict == right.verdict
            verdicts[right.verdict] += 1
    assert last.summary.name_count == 5600
    assert {it.verdict: it.count for it in last.summary.verdict_counts} == verdicts


async def test_a_name_that_is_none_is_rejected_and_stops_nothing(
    stub: ValidationServiceStub, sandbox: SandboxDns
) -> None:
    names = ["a.com", "not a name", "b.com", "", "x" * 100_000]
    *results, last = await answers(stub, [start(sandbox), batch(names)])

    found = {name.index: name for answer in results for name in answer.results.names}
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert [found[n].name for n in (1, 3, 4)] == ["not a name", "", "x" * 300]
    assert all(found[n].rejected for n in (1, 3, 4))
    assert all(found[n].HasField("dns") for n in (0, 2))
    assert (last.summary.name_count, last.summary.rejected_count) == (5, 3)


async def test_a_stream_without_names_ends_with_an_empty_summary(
    stub: ValidationServiceStub, sandbox: SandboxDns
) -> None:
    (last,) = await answers(stub, [start(sandbox)])

    assert last.summary.name_count == 0


@pytest.mark.parametrize("requests", ["names first", "start twice", "nothing"])
async def test_the_first_message_and_only_it_is_the_start(
    stub: ValidationServiceStub, sandbox: SandboxDns, requests: str
) -> None:
    messages = {
        "names first": [batch(["a.com"])],
        "start twice": [start(sandbox), start(sandbox)],
        "nothing": [],
    }[requests]

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub, messages)

    refusal = read(caught.value)
    assert (refusal.code, refusal.fields) == ("INVALID_ARGUMENT", {"start"})


async def test_a_client_that_does_not_read_is_not_read_from(
    stub: ValidationServiceStub, sandbox: SandboxDns
) -> None:
    call = stub.ValidateDomains()
    await call.write(start(sandbox))
    written = 0

    async def write() -> None:
        nonlocal written
        while written < 400_000:
            await call.write(batch(f"name-{written + n}.com" for n in range(1000)))
            written += 1000

    writing = asyncio.create_task(write())
    # So often in a row neither side has moved: what is in between fits into the connection.
    stood, before = 0, -1

    async def stands() -> None:
        nonlocal stood, before
        now = written + sandbox.stats.questions
        stood, before = (stood + 1 if now == before else 0), now
        assert stood >= 25
        assert sandbox.stats.questions >= 1000

    await eventually(stands)
    assert not writing.done()
    assert sandbox.stats.questions < 100_000
    writing.cancel()
    call.cancel()
    await asyncio.wait([writing])


async def test_a_cancelled_stream_leaves_nothing_in_flight(
    stub: ValidationServiceStub, sandbox: SandboxDns, engines: Engines
) -> None:
    call = stub.ValidateDomains()
    await call.write(start(sandbox))
    for part in range(MAX_IN_PROGRESS // 1000):
        await call.write(batch(f"name-{part}-{n}.com" for n in range(1000)))

    async def asked() -> None:
        assert sandbox.stats.questions > 0

    async def nothing_waits() -> None:
        assert engines.waiting() == 0

    await eventually(asked)
    call.cancel()
    await eventually(nothing_waits)
