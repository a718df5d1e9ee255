"""Reads with a real streaming replica that lags, dies, freezes and comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import grpc
import pyarrow.ipc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from domainflow.query.v1 import consistency_pb2, read_session_pb2, stream_pb2
from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.chassis.errors import PartUnavailable
from services.chassis.postgres import AWAY, Pool, open_pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.query.passing import add_query_service
from services.query.reads import Reads
from services.query.replica import Replica
from services.query.service import RULES, QueryService
from services.suite.postgres import EmbeddedPostgres, EmbeddedReplica
from tests.conftest import drop_database
from tests.eventually import eventually
from tests.query.conftest import KEY, Made, Writer
from tests.query.test_changes import begin_run
from tests.refusals import refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAST = consistency_pb2.Consistency(minimize_latency=True)
FULL = consistency_pb2.Consistency(fully_consistent=True)
UNSET = consistency_pb2.Consistency()
PRIMARY, REPLICA = consistency_pb2.READ_SOURCE_PRIMARY, consistency_pb2.READ_SOURCE_REPLICA
RESOLVED, NXDOMAIN = 1, 2


def at_least(revision: int) -> consistency_pb2.Consistency:
    return consistency_pb2.Consistency(at_least_as_fresh=revision)


@dataclass(frozen=True, slots=True)
class Both:
    """A primary with a replica, the service that reads from both, and who writes."""

    reads: Reads
    replica: Replica
    pool: Pool
    stub: QueryServiceStub
    writer: Writer
    server: EmbeddedReplica
    replica_url: str
    # To the replica, as its superuser.
    administrator: "asyncpg.Connection[asyncpg.Record]"

    async def pause(self) -> None:
        """Let the replica stand still in time; it goes on receiving."""
        await self.administrator.execute("SELECT pg_wal_replay_pause()")

        async def paused() -> None:
            state = await self.administrator.fetchval("SELECT pg_get_wal_replay_pause_state()")
            assert state == "paused"

        await eventually(paused)

    async def resume(self) -> None:
        await self.administrator.execute("SELECT pg_wal_replay_resume()")

    async def caught_up(self) -> None:
        """Return when the replica shows all that is committed now."""
        position = await self.writer.connection.fetchval("SELECT pg_current_wal_flush_lsn()")

        async def there() -> None:
            assert await self.administrator.fetchval(
                "SELECT pg_last_wal_replay_lsn() >= $1", position
            )

        await eventually(there)

    async def prepare_to_be_killed(self) -> None:
        """Leave little to replay for the start after it."""
        # Asked of both: on a replica, it writes no more than what the primary has noted.
        await self.writer.connection.execute("CHECKPOINT")
        await self.caught_up()
        await self.administrator.execute("CHECKPOINT")

    def kill(self) -> None:
        """Kill the replica with SIGKILL; it is started again."""
        os.kill(self.server.process.pid or 0, signal.SIGKILL)

    async def change(self, made: Made) -> int:
        """One more event of the campaign, and its revision."""
        return await self.writer.connection.fetchval(
            "UPDATE campaigns SET revision = revision + 1 WHERE no = $1 RETURNING revision",
            made.no,
        )


def _of_database(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=path).geturl()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_url(
    postgres_server: EmbeddedPostgres, migrated_template: str
) -> AsyncIterator[str]:
    """One database for all tests, made before the replica, which takes its time to copy one."""
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(
        f"CREATE DATABASE replicated TEMPLATE {migrated_template} STRATEGY FILE_COPY"
    )
    yield _of_database(postgres_server.url, "/replicated")
    await connection.close()
    await drop_database(postgres_server.url, "replicated")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica_server(
    postgres_server: EmbeddedPostgres, shared_url: str, server_folder: Path
) -> AsyncIterator[EmbeddedReplica]:
    folder = server_folder / "replica"
    async with EmbeddedReplica(folder, postgres_server) as server:
        # As with the primary: nothing of it need outlive the machine.
        (folder / "data" / "conf.d" / "test.conf").write_text("fsync = off\n")
        os.kill(server.process.pid or 0, signal.SIGHUP)
        yield server


@asynccontextmanager
async def _serving(reads: Reads) -> AsyncIterator[QueryServiceStub]:
    server = grpc.aio.server(interceptors=[CallGuard(rules=RULES, max_calls=50, max_streams=50)])
    add_query_service(QueryService(reads=reads, seal=Seal([KEY])), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # Who does not read on stops the server soon.
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield QueryServiceStub(channel)
    await server.stop(0)


@pytest_asyncio.fixture(loop_scope="module")
async def both(shared_url: str, replica_server: EmbeddedReplica) -> AsyncIterator[Both]:
    replica_url = _of_database(replica_server.url, "/replicated")
    replica = Replica(replica_url, shared_url, application_name="reads", max_size=4)
    connection = await asyncpg.connect(shared_url)
    administrator = await eventually(lambda: _connected(replica_server), within=30)
    pool = await open_pool(shared_url, application_name="reads", max_size=4, read_only=True)
    try:
        async with pool:
            reads = Reads(pool, replica)
            async with _serving(reads) as stub:
                writer = Writer(connection)
                each = Both(
                    reads, replica, pool, stub, writer, replica_server, replica_url, administrator
                )
                await each.caught_up()
                async with replica:
                    await eventually(lambda: _usable(replica))
                    yield each
                if not administrator.is_closed():
                    await each.resume()
    finally:
        await connection.close()
        await administrator.close()


async def _connected(server: EmbeddedPostgres) -> "asyncpg.Connection[asyncpg.Record]":
    try:
        return await asyncpg.connect(server.administrator_url)
    except AWAY as error:
        raise AssertionError from error


async def _usable(replica: Replica) -> None:
    assert replica.pool is not None
    assert replica.lag is not None


async def test_read_says_which_server_answers_and_which_revision_it_shows(both: Both) -> None:
    made = await both.writer.campaign(3)
    revision = await both.change(made)
    await both.caught_up()
    for consistency in (UNSET, FULL):
        read = await both.reads.begin(consistency, made.id)
        assert read.freshness == consistency_pb2.Freshness(revision=revision, source=PRIMARY)
        assert read.pool is both.pool
    read = await both.reads.begin(FAST, made.id)
    assert (read.freshness.revision, read.freshness.source) == (revision, REPLICA)
    assert read.freshness.HasField("replica_lag")
    assert read.campaign is not None
    assert (read.campaign.name_count, read.campaign.revision) == (3, revision)
    assert await read.pool.fetchval("SELECT pg_is_in_recovery()")


async def test_replica_that_lags_answers_with_its_old_revision_and_says_so(both: Both) -> None:
    made = await both.writer.campaign(4)
    old = await both.change(made)
    await both.caught_up()
    await both.pause()
    new = await both.change(made)
    await both.writer.add_names(made, ["later.example"])

    fast = pb.GetDomainSummaryRequest(campaign_id=str(made), consistency=FAST)
    answer = await both.stub.GetDomainSummary(fast)
    assert (answer.name_count, answer.freshness.revision) == (4, old)
    assert answer.freshness.source == REPLICA
    first = answer.freshness.replica_lag.ToMicroseconds()

    async def farther_behind() -> None:
        later = (await both.stub.GetDomainSummary(fast)).freshness
        assert later.replica_lag.ToMicroseconds() > first + 1_200_000

    await eventually(farther_behind)
    assert both.replica.state.lag_bytes
    for consistency in (UNSET, FULL):
        fast.consistency.CopyFrom(consistency)
        answer = await both.stub.GetDomainSummary(fast)
        assert (answer.name_count, answer.freshness.revision) == (5, new)
        assert answer.freshness.source == PRIMARY


async def test_a_revision_is_read_from_the_replica_once_it_has_got_so_far(both: Both) -> None:
    made = await both.writer.campaign(1)
    old = await both.change(made)
    await both.caught_up()
    await both.pause()
    new = await both.change(made)

    assert (await both.reads.begin(at_least(old), made.id)).freshness.source == REPLICA
    read = await both.reads.begin(at_least(new), made.id)
    assert (read.freshness.source, read.freshness.revision) == (PRIMARY, new)
    # What a token promises holds for those who want it fast, too.
    read = await both.reads.begin(FAST, made.id, least=new)
    assert (read.freshness.source, read.freshness.revision) == (PRIMARY, new)
    assert (await both.reads.begin(FAST, made.id, least=old)).freshness.source == REPLICA

    await both.resume()
    await both.caught_up()
    read = await both.reads.begin(at_least(new), made.id)
    assert (read.freshness.source, read.freshness.revision) == (REPLICA, new)
    assert (await both.reads.begin(FAST, made.id, least=new)).freshness.source == REPLICA


async def test_a_revision_that_nobody_has_reached_is_out_of_range(both: Both) -> None:
    made = await both.writer.campaign(1)
    newest = await both.change(made)
    request = pb.GetDomainSummaryRequest(campaign_id=str(made), consistency=at_least(newest + 1))
    refusal = await refused(both.stub.GetDomainSummary(request))
    assert (refusal.code, refusal.reason) == ("OUT_OF_RANGE", "REVISION_OUT_OF_RANGE")
    assert refusal.metadata == {
        "campaign_id": str(made),
        "revision": str(newest + 1),
        "newest_revision": str(newest),
        # Not the newest one: of the changes up to it, whoever was further once knows other ones.
        "restart_revision": "0",
    }


async def test_page_is_never_older_than_the_one_that_leads_to_it(both: Both) -> None:
    made = await both.writer.campaign(6)
    await both.writer.plan(made, 6, 3)
    await both.writer.settle(made, 0, [RESOLVED] * 3)
    await both.caught_up()
    await both.pause()
    await both.writer.settle(made, 3, [RESOLVED] * 3)
    await both.change(made)

    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=3)
    first = await both.stub.ListDomains(request)
    assert first.freshness.source == PRIMARY
    request.consistency.CopyFrom(FAST)
    assert (await both.stub.ListDomains(request)).freshness.source == REPLICA
    request.page_token = first.next_page_token
    second = await both.stub.ListDomains(request)

    assert second.freshness.revision >= first.freshness.revision
    assert second.freshness.source == PRIMARY
    assert [domain.dns.verdict for domain in second.domains] == [RESOLVED] * 3


async def test_comparison_goes_on_where_both_runs_are(both: Both) -> None:
    made = await both.writer.campaign(6)
    await both.writer.plan(made, 6, 6)
    await both.writer.settle(made, 0, [RESOLVED] * 6)
    await both.caught_up()
    await both.pause()
    await begin_run(both.writer, made, 6, 6, 2)
    await both.writer.settle(made, 0, [RESOLVED, NXDOMAIN] * 3, run=2)
    await both.writer.show(made, 2, 2)

    request = stream_pb2.StreamDifferencesRequest(campaign_id=str(made), batch_size=1)
    first = (await both.stub.StreamDifferences(request).read()).batch
    request.cursor = first.cursor
    request.consistency.CopyFrom(FAST)
    *batches, last = [message async for message in both.stub.StreamDifferences(request)]

    assert [each.position for m in batches for each in m.batch.differences] == [3, 5]
    assert last.report.freshness.source == PRIMARY


async def test_replica_that_is_too_far_behind_is_passed_over_until_it_has_caught_up(
    both: Both,
) -> None:
    made = await both.writer.campaign(1)
    await both.caught_up()
    strict = Reads(both.pool, both.replica, max_lag=3)

    async def answers(source: int) -> None:
        assert (await strict.begin(FAST, made.id)).freshness.source == source
        assert (await strict.begin(FAST)).freshness.source == source

    await eventually(lambda: answers(REPLICA))
    await both.pause()
    await both.change(made)
    await eventually(lambda: answers(PRIMARY))
    await both.resume()
    await eventually(lambda: answers(REPLICA))


async def test_campaign_that_the_replica_does_not_know_yet_is_read_from_the_primary(
    both: Both,
) -> None:
    await both.pause()
    made = await both.writer.campaign(2)
    request = pb.GetDomainSummaryRequest(campaign_id=str(made), consistency=FAST)
    answer = await both.stub.GetDomainSummary(request)
    assert (answer.name_count, answer.freshness.source) == (2, PRIMARY)

    request.campaign_id = str(uuid4())
    assert (await refused(both.stub.GetDomainSummary(request))).reason == "CAMPAIGN_NOT_FOUND"


async def test_revision_of_several_campaigns_is_refused_by_name_of_the_field(both: Both) -> None:
    ids = [str(uuid4()), str(uuid4())]
    for call, request in (
        (both.stub.StreamDomains, pb.StreamDomainsRequest(campaign_ids=ids)),
        (both.stub.StreamEnriched, stream_pb2.StreamEnrichedRequest(campaign_ids=ids)),
        (both.stub.StreamLeads, stream_pb2.StreamLeadsRequest(campaign_ids=ids)),
        (both.stub.StreamLogs, stream_pb2.StreamLogsRequest(campaign_ids=ids)),
    ):
        request.consistency.CopyFrom(at_least(1))
        refusal = await refused(call(request).read())
        assert (refusal.code, refusal.fields) == (
            "INVALID_ARGUMENT",
            {"consistency.at_least_as_fresh"},
        )


METHODS = [
    method
    for method in pb.DESCRIPTOR.services_by_name["QueryService"].methods
    if "consistency" in method.input_type.fields_by_name
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_every_read_can_be_answered_by_the_replica_and_says_so(
    both: Both, method: MethodDescriptor
) -> None:
    made = await both.writer.campaign(6)
    for run in (1, 2):
        await both.writer.plan(made, 6, 3, run=run)
        await both.writer.settle(made, 0, [RESOLVED] * 3, run=run)
        await both.writer.settle(made, 3, [RESOLVED, NXDOMAIN, RESOLVED], run=run)
    revision = await both.change(made)
    await both.caught_up()

    async def read(consistency: consistency_pb2.Consistency) -> consistency_pb2.Freshness:
        request = GetMessageClass(method.input_type)(consistency=consistency)
        if "campaign_ids" in method.input_type.fields_by_name:
            request.campaign_ids.append(str(made))
        else:
            request.campaign_id = str(made)
        call = getattr(both.stub, method.name)(request)
        if method.server_streaming:
            *_, last = [message async for message in call]
            return getattr(last, last.WhichOneof("kind")).freshness
        answer = await call
        return answer.session.freshness if method.name == "CreateReadSession" else answer.freshness

    fresh = await read(UNSET)
    assert (fresh.source, fresh.revision) == (PRIMARY, revision)
    for consistency in (FAST, at_least(revision)):
        fresh = await read(consistency)
        assert (fresh.source, fresh.revision) == (REPLICA, revision)
        assert fresh.HasField("replica_lag")
    refusal = await refused(read(at_least(revision + 1)))
    assert refusal.reason == "REVISION_OUT_OF_RANGE"


async def test_killed_replica_fails_no_call_and_is_used_again_when_it_is_back(both: Both) -> None:
    made = await both.writer.campaign(10)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=10, consistency=FAST)
    sources = []

    async def reader() -> None:
        while len(sources) < 3 or sources[-1] != REPLICA or PRIMARY not in sources:
            page = await both.stub.ListDomains(request)
            assert [domain.position for domain in page.domains] == list(range(10))
            sources.append(page.freshness.source)

    await both.prepare_to_be_killed()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(reader())
        restarts = both.server.process.restarts
        both.kill()
        await both.server.process.restarted(after=restarts)


async def test_stream_goes_on_with_the_primary_when_the_replica_is_killed(both: Both) -> None:
    made = await both.writer.campaign(100_000)
    request = pb.StreamDomainsRequest(
        campaign_ids=[str(made)],
        columns=[pb.DOMAIN_COLUMN_POSITION],
        # Far more messages than are made before they are asked for.
        batch_size=1_000,
        consistency=FAST,
    )
    await both.prepare_to_be_killed()
    stream = both.stub.StreamDomains(request)
    first = await stream.read()
    restarts = both.server.process.restarts
    both.kill()

    messages = [first]
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)

    positions = [position for message in messages for position in message.batch.positions]
    assert positions == list(range(100_000))
    assert messages[-1].summary.freshness.source == PRIMARY
    await both.server.process.restarted(after=restarts)


async def test_rows_of_a_session_are_whole_though_the_replica_is_killed(both: Both) -> None:
    made = await both.writer.campaign(100_000)
    await both.prepare_to_be_killed()
    made_session = await both.stub.CreateReadSession(
        read_session_pb2.CreateReadSessionRequest(
            campaign_id=str(made), columns=["position"], consistency=FAST
        )
    )
    session = made_session.session
    assert session.freshness.source == REPLICA
    schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(session.arrow_schema))
    request = read_session_pb2.ReadRowsRequest(read_stream=session.streams[0].name)
    restarts = both.server.process.restarts
    positions: list[int] = []

    async def go_on() -> bool:
        """False when the stream was cut; it can be resumed then."""
        stream = both.stub.ReadRows(request)
        try:
            while (message := await stream.read()) is not grpc.aio.EOF:
                if not positions:
                    both.kill()
                batch = pyarrow.py_buffer(message.arrow_record_batch)
                positions.extend(pyarrow.ipc.read_record_batch(batch, schema)["position"].tolist())
                request.offset = message.next_offset
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    while not await go_on():
        pass

    assert positions == list(range(100_000))
    await both.server.process.restarted(after=restarts)


async def test_read_that_has_left_the_replica_does_not_go_back_in_time(both: Both) -> None:
    made = await both.writer.campaign(1)
    await both.caught_up()
    await both.pause()
    new = await both.change(made)
    read = await both.reads.begin(FAST, made.id)
    assert read.freshness.source == REPLICA

    backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
    await both.administrator.fetch(backends, "reads")
    revision = "SELECT revision FROM campaigns WHERE no = $1"
    # The pool may have had time to notice that its connections are gone.
    while await read.pool.fetchval(revision, made.no) != new:
        await both.administrator.fetch(backends, "reads")

    assert read.freshness.source == PRIMARY
    assert not read.freshness.HasField("replica_lag")
    await eventually(lambda: _usable(both.replica))
    assert await read.pool.fetchval(revision, made.no) == new
    assert await read.pool.fetchrow(revision, made.no) == (new,)
    assert await read.pool.fetch(revision, made.no) == [(new,)]
    async with read.pool.acquire() as connection:
        assert await connection.fetchval(revision, made.no) == new


# Takes for ever where it runs on a replica.
SLOW = """SELECT CASE WHEN pg_is_in_recovery() THEN pg_sleep(600)::text ELSE 'primary' END
FROM (SELECT count(*) FROM campaigns) c"""


async def _asleep(both: Both) -> int:
    """The pid of the backend of the replica that runs SLOW."""

    async def found() -> int:
        pid = await both.administrator.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        )
        assert pid is not None
        return int(pid)

    return await eventually(found)


async def test_statement_in_the_way_of_replaying_is_answered_by_the_primary(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "services.query.replica")
    made = await both.writer.campaign(1)
    await both.caught_up()
    await both.administrator.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await both.administrator.execute("SELECT pg_reload_conf()")
    read = await both.reads.begin(FAST, made.id)
    answer = asyncio.create_task(read.pool.fetchval(SLOW))
    await _asleep(both)

    async with both.writer.connection.transaction():
        await both.writer.connection.execute("LOCK TABLE campaigns IN ACCESS EXCLUSIVE MODE")

    assert await answer == "primary"
    assert read.freshness.source == PRIMARY
    assert "canceling statement due to conflict with recovery" in caplog.text
    await both.administrator.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
    await both.administrator.execute("SELECT pg_reload_conf()")
    assert (await both.reads.begin(FAST, made.id)).freshness.source == REPLICA


async def test_connection_to_the_replica_that_breaks_tells_its_user_to_begin_again(
    both: Both,
) -> None:
    made = await both.writer.campaign(1)
    await both.caught_up()
    read = await both.reads.begin(FAST, made.id)

    async def cut_off() -> None:
        async with read.pool.acquire() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await both.administrator.execute("SELECT pg_terminate_backend($1)", pid)
            while True:
                await connection.fetchval("SELECT 1")

    with pytest.raises(PartUnavailable):
        await cut_off()
    assert read.freshness.source == PRIMARY


async def test_frozen_replica_holds_up_nobody_for_ever(both: Both) -> None:
    made = await both.writer.campaign(1)
    await both.caught_up()
    read = await both.reads.begin(FAST, made.id)
    answer = asyncio.create_task(read.pool.fetchval(SLOW))
    await _asleep(both)
    server = both.server.process.pid or 0
    family = [server, *_children(server)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert await answer == "primary"
        assert not both.replica.state.reachable
        assert (await both.reads.begin(FAST, made.id)).freshness.source == PRIMARY
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)
    await eventually(lambda: _usable(both.replica))


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may contain anything.
            text = status.read_text().rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(text.split()[1]) == parent:
            found.append(int(status.parent.name))
    return found


async def test_server_that_takes_writes_is_no_replica(both: Both, shared_url: str) -> None:
    async with Replica(shared_url, shared_url, application_name="reads") as replica:
        assert replica.pool is None
        assert replica.state.reason == "it is no replica, or not any more: it takes writes"


async def test_replica_of_another_database_is_not_used(both: Both, shared_url: str) -> None:
    other = _of_database(both.replica_url, "/postgres")
    async with Replica(other, shared_url, application_name="reads") as replica:
        assert replica.state.reason == "it is a replica of another database"
        read = await Reads(both.pool, replica).begin(FAST, None)
        assert read.freshness.source == PRIMARY


async def test_replica_that_is_away_at_the_beginning_is_used_once_it_is_there(
    both: Both, shared_url: str
) -> None:
    made = await both.writer.campaign(1)
    await both.change(made)
    await both.administrator.close()
    await both.server.stop()
    async with Replica(both.replica_url, shared_url, application_name="reads") as replica:
        reads = Reads(both.pool, replica)
        assert not replica.state.reachable
        assert replica.state.reason
        assert (await reads.begin(FAST, made.id)).freshness.source == PRIMARY
        assert (await reads.begin(at_least(1), made.id)).freshness.source == PRIMARY
        await both.server.start()

        async def answers() -> None:
            assert (await reads.begin(FAST, made.id)).freshness.source == REPLICA

        await eventually(answers)


async def test_without_the_primary_the_replica_answers_however_far_it_is_behind(
    both: Both, shared_url: str
) -> None:
    made = await both.writer.campaign(1)
    await both.caught_up()
    nowhere = urlsplit(shared_url)._replace(netloc="u:p@127.0.0.1:1").geturl()
    async with Replica(both.replica_url, nowhere, application_name="reads") as replica:
        read = await Reads(both.pool, replica, max_lag=0).begin(FAST, made.id)
        assert read.freshness.source == REPLICA
        assert read.freshness.HasField("replica_lag")
        assert replica.state.lag is None


async def test_ids_of_campaigns_come_back_as_they_went(both: Both) -> None:
    made = await both.writer.campaign(1)
    read = await both.reads.begin(UNSET, UUID(str(made)))
    assert read.campaign is not None
    assert read.campaign.id == made.id
