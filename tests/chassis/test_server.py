"""The guard around every call and the server's life, through real ports."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from domainflow.campaign.v1 import campaign_service_pb2 as campaign_pb
from domainflow.campaign.v1 import campaign_service_pb2_grpc as campaign_grpc
from domainflow.campaign.v1.event_pb2 import Event
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.contract import SERVICES
from services.chassis.errors import CampaignNotFound, FieldViolation, InvalidFields
from services.chassis.postgres import open_pool
from services.chassis.server import CallGuard, serve
from services.suite.postgres import EmbeddedPostgres
from tests.eventually import eventually
from tests.refusals import read, refused

VALIDATION = "domainflow.validation.v1.ValidationService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def answer() -> pb.ListWorkersResponse:
    return pb.ListWorkersResponse()


@dataclass
class Scripted(pb_grpc.ValidationServiceServicer, campaign_grpc.CampaignServiceServicer):
    """A service whose calls do what the test says: ListWorkers, and a stream that never ends."""

    behave: Callable[[], Awaitable[Any]] = answer
    # Calls in progress.
    inside: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def ListWorkers(self, request: Any, context: Any) -> Any:
        self.inside += 1
        try:
            return await self.behave()
        finally:
            self.inside -= 1

    async def CheckNames(self, request: Any, context: Any) -> Any:
        return pb.CheckNamesResponse()

    async def WatchCampaigns(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.inside += 1
        try:
            while True:
                yield campaign_pb.WatchCampaignsResponse()
                await self.go_on.wait()
                self.go_on.clear()
        finally:
            self.inside -= 1

    async def wait(self) -> pb.ListWorkersResponse:
        """A behaviour: answer when the test says so."""
        await self.go_on.wait()
        return pb.ListWorkersResponse()

    async def has_inside(self, count: int) -> None:
        async def so_many() -> None:
            assert self.inside == count

        await eventually(so_many)


def register(scripted: Scripted, server: grpc.aio.Server) -> None:
    pb_grpc.add_ValidationServiceServicer_to_server(scripted, server)
    campaign_grpc.add_CampaignServiceServicer_to_server(scripted, server)


@contextlib.asynccontextmanager
async def guarded(scripted: Scripted, **limits: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A guard and nothing else around the script."""
    guard = CallGuard(**({"rules": {}, "max_calls": 10, "max_streams": 10} | limits))
    server = grpc.aio.server(interceptors=[guard])
    register(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


def list_workers(channel: grpc.aio.Channel, **more: Any) -> Any:
    return pb_grpc.ValidationServiceStub(channel).ListWorkers(pb.ListWorkersRequest(), **more)


def watch(channel: grpc.aio.Channel) -> Any:
    request = campaign_pb.WatchCampaignsRequest()
    return campaign_grpc.CampaignServiceStub(channel).WatchCampaigns(request)


async def test_the_call_beyond_the_limit_is_told_when_to_come_back() -> None:
    scripted = Scripted()
    scripted.behave = scripted.wait
    async with guarded(scripted, max_calls=2) as channel:
        admitted = [list_workers(channel) for _ in range(2)]
        await scripted.has_inside(2)

        refusal = await refused(list_workers(channel))
        scripted.go_on.set()
        await asyncio.gather(*admitted)
        await list_workers(channel)

    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
    assert refusal.metadata == {"limit": "2"}
    assert refusal.retry_after is not None
    assert refusal.retry_after > 0


async def test_streams_are_counted_apart_and_freed_by_a_hang_up() -> None:
    scripted = Scripted()
    async with guarded(scripted, max_calls=1, max_streams=1) as channel:
        first = watch(channel)
        await first.read()

        refusal = await refused(watch(channel).read())
        await list_workers(channel)
        first.cancel()
        await scripted.has_inside(0)

        async def admitted() -> None:
            call = watch(channel)
            try:
                await call.read()
            except grpc.aio.AioRpcError as error:
                raise AssertionError from error

        await eventually(admitted)

    assert refusal.reason == "TOO_MANY_CALLS"


class Endless(Scripted):
    """Its stream sends large messages without a pause."""

    asked_for: int = 0

    async def WatchCampaigns(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.inside += 1
        try:
            event = Event(campaign_id="x" * 100_000)
            while True:
                self.asked_for += 1
                yield campaign_pb.WatchCampaignsResponse(event=event)
        finally:
            self.inside -= 1

    async def is_held_up(self) -> None:
        """A message is on its way that nobody takes."""
        seen = 0

        async def nothing_more() -> None:
            nonlocal seen
            before, seen = seen, self.asked_for
            assert before == seen

        await eventually(nothing_more)


async def test_a_hang_up_in_the_middle_of_a_message_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endless = Endless()
    async with guarded(endless) as channel:
        for _ in range(5):
            call = watch(channel)
            await call.read()
            await endless.is_held_up()
            call.cancel()
            await endless.has_inside(0)

    assert [record.getMessage() for record in caplog.records if record.levelno > 30] == []


async def test_what_nobody_expected_is_internal_and_keeps_its_text_to_itself() -> None:
    async def fail() -> None:
        raise ValueError("the secret of the house")

    async with guarded(Scripted(fail)) as channel:
        metadata = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")]
        refusal = await refused(list_workers(channel, metadata=metadata))

    assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")
    assert refusal.message == f"internal error, trace {TRACE}"


async def test_a_refusal_carries_its_reason_and_facts() -> None:
    async def refuse() -> None:
        raise CampaignNotFound("c1")

    async with guarded(Scripted(refuse)) as channel:
        refusal = await refused(list_workers(channel))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "CAMPAIGN_NOT_FOUND")
    assert refusal.metadata == {"campaign_id": "c1"}
    assert refusal.retry_after is None


async def test_the_deadline_is_answered_before_it_ends() -> None:
    scripted = Scripted()
    scripted.behave = scripted.wait
    async with guarded(scripted) as channel:
        refusal = await refused(list_workers(channel, timeout=0.5))
        await scripted.has_inside(0)

    assert (refusal.code, refusal.reason) == ("DEADLINE_EXCEEDED", "DEADLINE")


async def test_a_part_that_is_too_slow_is_not_the_callers_deadline() -> None:
    async def time_out() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    async with guarded(Scripted(time_out)) as channel:
        refusal = await refused(list_workers(channel, timeout=30))

    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "PART_UNAVAILABLE")


async def test_contract_and_rules_speak_at_once_and_once_a_field() -> None:
    def rule(request: pb.CheckNamesRequest) -> list[FieldViolation]:
        return [FieldViolation("names", "twice"), FieldViolation("resolvers[0]", "once")]

    async with guarded(Scripted(), rules={pb.CheckNamesRequest: rule}) as channel:
        stub = pb_grpc.ValidationServiceStub(channel)
        refusal = await refused(stub.CheckNames(pb.CheckNamesRequest()))

    assert refusal.fields == {"names", "resolvers[0]"}
    assert "twice" not in refusal.message


async def test_rules_look_at_no_more_elements_than_the_contract_allows() -> None:
    looked_at = []

    def rule(request: pb.CheckNamesRequest) -> list[FieldViolation]:
        looked_at.append(len(request.names))
        return []

    async def thorough(request: pb.CheckNamesRequest) -> list[FieldViolation]:
        return rule(request)

    rules = {pb.CheckNamesRequest: rule}
    thorough_rules = {pb.CheckNamesRequest: thorough}
    async with guarded(Scripted(), rules=rules, thorough_rules=thorough_rules) as channel:
        stub = pb_grpc.ValidationServiceStub(channel)
        request = pb.CheckNamesRequest(names=["example.com"] * 200_000)
        refusal = await refused(stub.CheckNames(request))

    assert refusal.fields == {"names"}
    assert looked_at == [1_000, 1_000]


@pytest.mark.parametrize("text", ["n" * 9000, "ü" * 9000, "日" * 9000])
async def test_the_longest_refusal_still_arrives(text: str) -> None:
    async def refuse() -> None:
        raise InvalidFields(FieldViolation(f"names[{n}]", text) for n in range(1000))

    async with guarded(Scripted(refuse)) as channel:
        refusal = await refused(list_workers(channel))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert "names[0]" in refusal.fields
    assert refusal.message.startswith("names[0]: " + text[0])


# The database goes away.


async def test_a_database_that_is_away_is_a_part_to_wait_for(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "postgres") as server:
        async with await open_pool(server.url, application_name="test") as pool:

            async def ask() -> pb.ListWorkersResponse:
                await pool.fetchval("SELECT 1")
                return pb.ListWorkersResponse()

            async with guarded(Scripted(ask)) as channel:
                await list_workers(channel)
                await server.stop()
                refusals = [await refused(list_workers(channel)) for _ in range(3)]
                await server.start()

                async def well_again() -> None:
                    try:
                        await list_workers(channel)
                    except grpc.aio.AioRpcError as error:
                        raise AssertionError from error

                await eventually(well_again)

    for refusal in refusals:
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "PART_UNAVAILABLE")
        assert refusal.metadata == {"part": "postgres"}
        assert refusal.retry_after == 1


async def test_a_wrong_statement_is_a_fault_of_ours(database_url: str) -> None:
    async with await open_pool(database_url, application_name="test") as pool:

        async def ask() -> None:
            await pool.fetchval("SELECT secret_column FROM campaigns")

        async with guarded(Scripted(ask)) as channel:
            refusal = await refused(list_workers(channel))

    assert refusal.reason == "INTERNAL"
    assert "secret_column" not in refusal.message


async def test_a_read_only_pool_writes_nothing(database_url: str) -> None:
    async with await open_pool(database_url, application_name="test", read_only=True) as pool:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pool.execute("DELETE FROM campaigns")


# A server's life.


@dataclass
class Served:
    address: str
    channel: grpc.aio.Channel
    health: health_pb2_grpc.HealthStub
    task: "asyncio.Task[None]"

    async def status(self) -> int:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=VALIDATION))
        return int(answer.status)

    async def says(self, status: int) -> None:
        async def does() -> None:
            assert await self.status() == status

        await eventually(does)


@contextlib.asynccontextmanager
async def served(
    scripted: Scripted, ready: Callable[[], Awaitable[None]], **more: Any
) -> AsyncIterator[Served]:
    ports: asyncio.Queue[int] = asyncio.Queue()
    task = asyncio.create_task(
        serve(
            "127.0.0.1:0",
            service_name=VALIDATION,
            register=lambda server: register(scripted, server),
            ready=ready,
            on_bound=ports.put_nowait,
            **more,
        )
    )
    try:
        address = f"127.0.0.1:{await ports.get()}"
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
            yield Served(address, channel, health_pb2_grpc.HealthStub(channel), task)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def is_ready() -> None:
    """The part is well."""


def end() -> None:
    """What a supervisor does to end this process."""
    os.kill(os.getpid(), signal.SIGTERM)


async def test_draining_says_so_first_and_lets_calls_finish() -> None:
    scripted = Scripted()
    scripted.behave = scripted.wait
    async with served(scripted, is_ready, drain_delay=0.5) as server:
        await server.says(SERVING)
        stream = watch(server.channel)
        await stream.read()
        call = list_workers(server.channel)
        await scripted.has_inside(2)

        end()
        await server.says(NOT_SERVING)
        # Who had not heard of it yet is still served.
        await pb_grpc.ValidationServiceStub(server.channel).CheckNames(
            pb.CheckNamesRequest(names=["a.com"])
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        scripted.go_on.set()
        await call
        await asyncio.wait_for(server.task, 10)

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "PART_UNAVAILABLE")
    assert refusal.retry_after is not None
    assert await call == pb.ListWorkersResponse()


async def test_a_call_that_does_not_end_is_cut_after_the_grace() -> None:
    scripted = Scripted()
    scripted.behave = scripted.wait
    async with served(scripted, is_ready, drain_delay=0, grace=0.1) as server:
        call = list_workers(server.channel)
        await scripted.has_inside(1)

        end()
        await asyncio.wait_for(server.task, 10)

        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_health_follows_the_parts_and_is_pushed_to_watchers() -> None:
    well = False

    async def ready() -> None:
        if not well:
            raise ConnectionError

    async with served(Scripted(), ready, drain_delay=0) as server:
        request = health_pb2.HealthCheckRequest(service=VALIDATION)
        changes = server.health.Watch(request)
        while (await changes.read()).status != NOT_SERVING:
            pass
        well = True
        assert (await changes.read()).status == SERVING
        assert await server.status() == SERVING
        end()
        assert (await changes.read()).status == NOT_SERVING
        changes.cancel()


async def test_reflection_lists_every_service_of_the_suite() -> None:
    async with served(Scripted(), is_ready, drain_delay=0) as server:
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        call.cancel()

    assert listed >= {*SERVICES, "grpc.health.v1.Health"}


async def test_two_servers_never_share_a_port() -> None:
    async with served(Scripted(), is_ready, drain_delay=0) as server:
        with pytest.raises(RuntimeError, match="bind"):
            await serve(
                server.address,
                service_name=VALIDATION,
                register=lambda server: None,
                ready=is_ready,
            )
