"""ValidationService through a real port."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.task_pb2 import EndpointLoad, WorkerLoad
from domainflow.validation.v1.validation_service_pb2_grpc import (
    ValidationServiceStub,
    add_ValidationServiceServicer_to_server,
)
from services.chassis.postgres import Pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import truth
from services.validation.engines import Engines
from services.validation.persona_store import Personas
from services.validation.pool import Bounds, Size
from services.validation.pools import WorkerReport
from services.validation.service import RULES, ValidationService
from services.validation.store import Store
from tests.refusals import refused

NAMES = [f"name-{number}.com" for number in range(300)]


@pytest.fixture
async def validation(
    pool: Pool, store: Store, engines: Engines
) -> AsyncIterator[ValidationServiceStub]:
    guard = CallGuard(rules=RULES, max_calls=10, max_streams=10)
    server = grpc.aio.server(interceptors=[guard])
    service = ValidationService(
        store=store, engines=engines, personas=Personas(pool), seal=Seal([b"k" * 32])
    )
    add_ValidationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ValidationServiceStub(channel)
    await server.stop(0)


def check(sandbox: SandboxDns, *names: str) -> pb.CheckNamesRequest:
    return pb.CheckNamesRequest(names=names, resolvers=["{}:{}".format(*sandbox.address)])


async def test_names_are_checked_with_the_evidence_that_is_true(
    validation: ValidationServiceStub, sandbox: SandboxDns
) -> None:
    answer = await validation.CheckNames(check(sandbox, *NAMES))

    assert [checked.name for checked in answer.checked_names] == NAMES
    for checked in answer.checked_names:
        right = truth(checked.name, sandbox.settings.seed, sandbox.settings.mix)
        assert checked.dns.verdict == right.verdict
        assert tuple(checked.dns.addresses) == right.addresses
        assert checked.dns.attempt_count >= 1
        assert checked.dns.check_time.seconds > 0
        if right.addresses:
            assert checked.dns.ttl.seconds == right.ttl
            assert checked.dns.resolver == "{}:{}".format(*sandbox.address)


async def test_names_are_normalised_and_repeated_ones_answered_each_time(
    validation: ValidationServiceStub, sandbox: SandboxDns
) -> None:
    answer = await validation.CheckNames(check(sandbox, "A.com.", "a.com", " bücher.de", "a.com"))

    assert [checked.name for checked in answer.checked_names] == [
        "a.com",
        "a.com",
        "xn--bcher-kva.de",
        "a.com",
    ]
    assert (
        len({checked.dns.verdict for checked in answer.checked_names if checked.name == "a.com"})
        == 1
    )


async def test_every_bad_field_is_named_at_once(validation: ValidationServiceStub) -> None:
    request = pb.CheckNamesRequest(
        names=["a.com", "a b.com", "", "com"], resolvers=["192.0.2.1", "nowhere"]
    )

    refusal = await refused(validation.CheckNames(request))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert refusal.fields == {"names[1]", "names[2]", "names[3]", "resolvers[1]"}


async def test_limits_stand(validation: ValidationServiceStub) -> None:
    none = await refused(validation.CheckNames(pb.CheckNamesRequest()))
    many = await refused(validation.CheckNames(pb.CheckNamesRequest(names=["a.com"] * 1001)))
    twice = await refused(
        validation.CheckNames(pb.CheckNamesRequest(names=["a.com"], resolvers=["192.0.2.1"] * 2))
    )

    assert none.fields == many.fields == {"names"}
    assert twice.fields == {"resolvers"}


async def test_workers_are_listed_oldest_first(
    validation: ValidationServiceStub, store: Store
) -> None:
    load = WorkerLoad(cpu_cores=0.5, loss=0.1, endpoints=[EndpointLoad(endpoint="a:53")])
    one = WorkerReport("one", "dns", "host", 1, timedelta(), 2, 300, WorkerLoad())
    await store.pools.report(one)
    await store.pools.report(replace(one, worker_id="other", pid=2))
    await store.pools.report(replace(one, chunks_in_flight=3, settled_count=400, load=load))

    answer = await validation.ListWorkers(pb.ListWorkersRequest())

    assert [worker.worker_id for worker in answer.workers] == ["one", "other"]
    first = answer.workers[0]
    assert (first.pool, first.host, first.pid) == ("dns", "host", 1)
    assert (first.chunks_in_flight, first.settled_count) == (3, 400)
    assert first.report_time.ToNanoseconds() >= first.start_time.ToNanoseconds() > 0
    assert first.load == load


async def test_pools_are_listed_with_the_reason_for_their_size(
    validation: ValidationServiceStub, store: Store
) -> None:
    await store.pools.decide("dns", "host", Size(0, 9), Size(2, 9), Bounds(1, 4), "it is so")

    (pool,) = (await validation.ListPools(pb.ListPoolsRequest())).worker_pools

    assert (pool.pool, pool.host, pool.reason) == ("dns", "host", "it is so")
    assert (pool.process_count, pool.task_limit) == (2, 9)
    assert (pool.min_process_count, pool.max_process_count) == (1, 4)
    assert pool.decide_time.seconds > 0
