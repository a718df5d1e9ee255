"""What is on disk of an export that is not finished: parts, and how far each of them is for sure.

FILE.parts holds the plan (what was asked for, and the streams that are all of it), a file for each
stream with the Arrow messages as they came, and next to it what of that file counts. What counts
was synced before it was written down, so neither Ctrl-C nor a power cut takes rows or repeats them.
"""

import base64
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.exits import ExitCode, Failure

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A session: its campaign, the schema of its rows as an Arrow IPC message, and its streams."""

    campaign_id: str
    schema: bytes
    streams: Sequence[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that an export reads, in the order of its rows."""

    # What was asked for, as plain JSON: another one is another export.
    asked: Mapping[str, Any]
    sources: Sequence[Source]
    # Rows of all streams; an estimate when `estimated`.
    row_count: int
    estimated: bool


class Part:
    """Rows of one stream. One task adds to it; a thread may read what is written meanwhile."""

    def __init__(self, path: Path, campaign_id: str, schema: bytes, stream: str) -> None:
        self.path = path
        self.campaign_id = campaign_id
        self.schema = schema
        # Name of the stream of what is still to come.
        self.rest = stream
        self.rows = 0
        self.size = 0
        self.done = False
        self._mark = path.with_suffix(".json")
        self._file: int | None = None
        self._changed = threading.Condition()
        self._keeping = threading.Lock()
        self._dropped = False
        # What is written down of it.
        self._kept = self._mark_now()

    def find(self) -> None:
        """Take up what was kept; what was written after it does not count."""
        if self._mark.exists():
            mark = json.loads(self._mark.read_text())
            self.rest, self.rows = mark["rest"], mark["rows"]
            self.size, self.done = mark["size"], mark["done"]
            self._kept = mark
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(file).st_size < self.size:
                raise Failure(f"{self.path} is damaged: begin the export anew with --restart")
            os.ftruncate(file, self.size)
        finally:
            os.close(file)

    def add(self, message: bytes, rows: int, rest: str) -> None:
        """A record batch as it came."""
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        left = memoryview(message)
        while left:
            left = left[os.write(self._file, left) :]
        with self._changed:
            self.size += len(message)
            self.rows += rows
            self.rest = rest
            self._changed.notify_all()

    def finish(self) -> None:
        """Nothing else comes."""
        with self._changed:
            self.done = True
            self._changed.notify_all()

    def keep(self) -> None:
        """From now on what was added so far survives everything."""
        # Whoever is interrupted while a thread does this does it once more.
        with self._keeping:
            # A message counts as a whole: where it ends, and what follows it.
            with self._changed:
                mark = self._mark_now()
            if mark == self._kept:
                return
            # Opened for this alone: whoever adds may be done with it meanwhile.
            file = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
            _write_durably(self._mark, json.dumps(mark))
            self._kept = mark

    def _mark_now(self) -> Mapping[str, object]:
        return {"rest": self.rest, "rows": self.rows, "size": self.size, "done": self.done}

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def drop(self) -> None:
        """Whoever waits for more waits in vain."""
        with self._changed:
            self._dropped = True
            self._changed.notify_all()

    def wait(self, size: int) -> int:
        """Block until more than `size` bytes are written; the same number when nothing comes.

        Raises Dropped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.size > size or self.done or self._dropped)
            if self._dropped:
                raise Dropped
            return self.size


class Dropped(Exception):
    """The export was given up for now."""


class Kept:
    """The folder of an unfinished export, held by one process at a time."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self._plan = self.folder / "plan.json"
        self._lock = self.folder / "lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises Failure when another process has it, or the output cannot be a file."""
        if self.output.is_dir():
            raise Failure(f"{self.output} is a folder", ExitCode.USAGE)
        lock = self._locked()
        try:
            yield
        finally:
            if self._lock.exists() and not self._plan.exists():
                # Nothing came of it, or all did. The lock goes last: nobody has it before.
                self.forget()
                self._lock.unlink()
                with suppress(OSError):
                    # Whoever came meanwhile has put his own lock there.
                    self.folder.rmdir()
            os.close(lock)

    def _locked(self) -> int:
        """The folder's lock, held. Raises Failure when another process has it."""
        while True:
            with suppress(FileExistsError):
                self.folder.mkdir()
            try:
                lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                if self.folder.is_symlink():
                    # To a folder that is not there.
                    raise
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), self._lock.stat()):
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise Failure(f"another command is writing {self.output} now") from None
            except FileNotFoundError:
                pass
            # Another process was done with it and took it away before it was locked.
            os.close(lock)

    def forget(self) -> None:
        """Remove the plan and all rows."""
        self._plan.unlink(missing_ok=True)
        for file in self.folder.iterdir():
            if file != self._lock:
                file.unlink()

    def plan(self) -> Plan | None:
        """What was begun here; none when nothing was."""
        if not self._plan.exists():
            return None
        kept = json.loads(self._plan.read_text())
        if kept.get("version") != _VERSION:
            raise Failure(
                f"{self.folder} is of another version: begin the export anew with --restart"
            )
        return Plan(
            kept["asked"],
            [
                Source(s["campaign_id"], base64.b64decode(s["schema"]), s["streams"])
                for s in kept["sources"]
            ],
            kept["row_count"],
            kept["estimated"],
        )

    def begin(self, plan: Plan) -> None:
        """Write down what is to be read, before anything is."""
        self.forget()
        sources = [
            {
                "campaign_id": source.campaign_id,
                "schema": base64.b64encode(source.schema).decode(),
                "streams": list(source.streams),
            }
            for source in plan.sources
        ]
        kept = {
            "version": _VERSION,
            "asked": plan.asked,
            "sources": sources,
            "row_count": plan.row_count,
            "estimated": plan.estimated,
        }
        _write_durably(self._plan, json.dumps(kept))

    def parts(self, plan: Plan) -> list[Part]:
        """All parts, in the order of their rows, with what was kept of each."""
        parts: list[Part] = []
        for source in plan.sources:
            for stream in source.streams:
                path = self.folder / f"{len(parts):06}.arrow"
                part = Part(path, source.campaign_id, source.schema, stream)
                part.find()
                parts.append(part)
        return parts

    @contextmanager
    def appearing(self) -> Iterator[Path]:
        """A file to write, which becomes the output, whole and synced, when that went well."""
        unfinished = self.folder / "output"
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(self.output)
        _sync_folder(self.output.parent)


def no_plan(kept: Kept) -> Failure:
    return Failure(f"nothing was kept in {kept.folder}: there is nothing to go on with")


def other_plan(kept: Kept) -> Failure:
    return Failure(
        f"{kept.folder} belongs to an export of other campaigns, columns or filters: go on with"
        " those, or begin anew with --restart",
        ExitCode.USAGE,
    )


def _write_durably(path: Path, text: str) -> None:
    """The file has this text or the one before, whatever happens."""
    unfinished = path.with_name(path.name + ".new")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
