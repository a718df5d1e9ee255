"""PostgreSQL's own programs that copy a database: a server's files, or its rows as a dump."""

import asyncio
import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from services.suite.postgres import binaries
from services.suite.process import guarded

_BLOCK = 1024 * 1024

# Called with the share that is done, 0 to 1.
Progress = Callable[[float], None]


class CopyFailed(Exception):
    """A program ended with an error, or a copy is damaged."""


async def copy_cluster(administrator_url: str, target: Path, on_progress: Progress) -> None:
    """Write the files of a running server to a folder that does not exist, compressed, with the
    part of its log that makes them consistent."""

    def look(line: str) -> None:
        # "  12345/67890 kB (18%), 0/1 tablespace"
        done, slash, rest = line.strip().partition("/")
        total = rest.partition(" ")[0]
        if slash and done.isdigit() and total.isdigit() and int(total):
            on_progress(min(1.0, int(done) / int(total)))

    # The log is streamed beside the files: a server that writes much cannot recycle it first.
    command = ["pg_basebackup", "--format=tar", "--wal-method=stream", "--checkpoint=fast"]
    # Level 1: the higher ones cost time and gain little.
    command += ["--compress=client-gzip:1", "--manifest-checksums=SHA256", "--progress"]
    command += ["--no-password", f"--pgdata={target}"]
    await _run(command, administrator_url, on_line=look)


async def dump(url: str, target: Path) -> None:
    """Write all rows of a database, as of one moment, to a folder that does not exist."""
    command = ["pg_dump", "--format=directory", "--jobs=2", "--compress=gzip:1", "--no-owner"]
    await _run([*command, "--no-password", f"--file={target}"], url)


async def load_dump(source: Path, url: str) -> None:
    """Fill an empty database from a dump."""
    command = ["pg_restore", "--no-owner", "--exit-on-error", "--jobs=2", "--no-password"]
    await _run([*command, str(source)], url)


def unpack_cluster(source: Path, target: Path, size: int, on_progress: Progress) -> None:
    """Unpack what copy_cluster wrote to a folder that does not exist, and compare every file with
    what the server said of it when it sent it. `size`: bytes to expect, for the progress alone."""
    # pg_verifybackup would do, but that of the wheel ends with a segmentation fault.
    manifest = json.loads((source / "backup_manifest").read_text())
    expected = {file["Path"]: file["Checksum"] for file in manifest["Files"]}
    found: dict[str, str] = {}
    written = 0
    target.mkdir(mode=0o700)
    for archive, folder in (("base.tar.gz", target), ("pg_wal.tar.gz", target / "pg_wal")):
        try:
            # Not tarfile's own decompression: pg_basebackup writes the log as several members.
            with (
                gzip.open(source / archive) as plain,
                tarfile.open(fileobj=plain, mode="r|") as tar,
            ):
                for member in tar:
                    digest = _extracted(tar, member, folder)
                    if digest is not None and folder is target:
                        found[member.name] = digest
                    written += member.size
                    on_progress(min(1.0, written / max(size, 1)))
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise CopyFailed(f"{source / archive} cannot be read: {error}") from None
    wrong = sorted(path for path in expected if found.get(path) != expected[path])
    if wrong:
        raise CopyFailed(f"{len(wrong)} files are missing or damaged, such as {wrong[0]}")


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> str | None:
    """Write one member; its SHA-256 if it is a file."""
    path = folder / member.name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CopyFailed(f"{member.name} would be written outside of the folder")
    if member.isdir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return None
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise CopyFailed(f"{member.name} is neither a file nor a folder: a tablespace of yours?")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while block := content.read(_BLOCK):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


async def _run(
    command: Sequence[str], url: str, on_line: Callable[[str], None] = lambda line: None
) -> None:
    """Run a program of PostgreSQL on a database; the list of processes shows no password."""
    parts = urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()
    environment = {**os.environ, "LC_ALL": "C"}
    if parts.password:
        environment["PGPASSWORD"] = unquote(parts.password)
    child = await asyncio.create_subprocess_exec(
        *guarded([str(binaries() / command[0]), f"--dbname={shown}", *command[1:]]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    said: list[str] = []
    try:
        assert child.stderr
        async for line in child.stderr:
            said.append(line.decode(errors="replace"))
            on_line(said[-1])
        await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        raise CopyFailed(f"{command[0]} failed: {''.join(said[-5:]).strip()}")
