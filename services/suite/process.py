"""One supervised foreground child: started, probed, restarted when it dies, stopped by pid.

On Linux a child is tied to its supervisor by the parent-death signal, so that even a supervisor
killed with SIGKILL leaves no orphan. The kernel ties it to the *thread* that started it: run the
event loop of a supervisor in a thread that lives as long as the supervisor does.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

LOG_LIMIT = 16 * 1024 * 1024
LOG_TAIL_LINES = 15

# The parent may die between fork and setpriv's prctl. The shell starts after the signal is set,
# so a parent that is already gone shows in $PPID. exec keeps the pid: it is the child's own.
_STILL_OURS = '[ "$PPID" -eq "$0" ] || exit 1; exec "$@"'


class State(StrEnum):
    """Where a part stands; RESTARTING covers both the pause and the new attempt."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


class StartFailed(Exception):
    """A part did not become ready; the text ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged user to run as. `reads_all` passes shut parent folders, for reading only."""

    uid: int
    gid: int
    reads_all: bool = False


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between restarts in seconds, doubling; forgotten after `healthy_after` seconds up."""

    first: float = 0.2
    limit: float = 5.0
    healthy_after: float = 30.0

    def pause(self, previous: float, uptime: float) -> float:
        """The next pause, after one of `previous` seconds (0: none yet) and `uptime` seconds up."""
        if previous == 0 or uptime >= self.healthy_after:
            return self.first
        return min(previous * 2, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What to run and how to know that it works.

    `ready` is asked every 50 ms until it answers True, at most `ready_within` seconds; that span
    begins anew whenever `progress` returns something different, so that a long recovery is not
    taken for a hang. `retry` sees the log of a child that died before it was ready and says
    whether another attempt within the same span is worth it. `prepare` runs before each attempt.
    """

    name: str
    command: Sequence[str]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    ready_within: float = 30.0
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 15.0
    death_signal: signal.Signals = signal.SIGKILL
    prepare: Callable[[], None] | None = None
    progress: Callable[[], object] | None = None
    retry: Callable[[str], bool] | None = None
    backoff: Backoff = Backoff()


@dataclass(frozen=True, slots=True)
class Report:
    """One change of one part. `detail` explains a RESTARTING: exit status and end of the log."""

    name: str
    state: State
    pid: int | None
    restarts: int
    detail: str = ""


class Process:
    """A child that is kept alive between `start` and `stop`."""

    def __init__(self, spec: Spec, *, on_change: Callable[[Report], None] | None = None) -> None:
        self._spec = spec
        self._on_change = on_change
        self._child: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._restarts = 0
        self.state = State.STOPPED

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """Process id of the running child, the program itself and never a wrapper around it."""
        return self._child.pid if self._child and self._child.returncode is None else None

    @property
    def restarts(self) -> int:
        return self._restarts

    async def start(self) -> None:
        """Start and wait until ready, or raise StartFailed with nothing left running."""
        if self._keeper is not None:
            raise RuntimeError(f"{self.name} was started already")
        self._become(State.STARTING)
        try:
            await self._launch()
        except BaseException:
            self._become(State.STOPPED)
            raise
        self._become(State.READY)
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"keep {self.name}")

    async def stop(self, grace: float | None = None) -> None:
        """Ask it to end, kill it after `grace` seconds, return when it is gone. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        if self.pid is not None:
            self._become(State.STOPPING)
            await self._end(self._spec.stop_grace if grace is None else grace)
        if self.state is not State.STOPPED:
            self._become(State.STOPPED)

    async def restarted(self, after: int) -> None:
        """Return once the child is ready again after more than `after` restarts."""
        while self._restarts <= after or self.state is not State.READY:
            self._ready.clear()
            await self._ready.wait()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            began = loop.time()
            status = await self._watch()
            uptime = loop.time() - began
            detail = f"{_exit_text(status)}\n{log_tail(self._spec.log)}"
            while True:
                self._restarts += 1
                self._become(State.RESTARTING, detail)
                pause, uptime = self._spec.backoff.pause(pause, uptime), 0.0
                await asyncio.sleep(pause)
                try:
                    await self._launch()
                except (StartFailed, OSError) as failure:
                    detail = str(failure)
                    continue
                self._become(State.READY)
                break

    async def _watch(self) -> int:
        """Wait for the child's end; meanwhile keep its log within bounds."""
        child = self._child
        assert child is not None
        while True:
            try:
                async with asyncio.timeout(30):
                    return await child.wait()
            except TimeoutError:
                _rotate(self._spec.log, keep_open=True)

    async def _launch(self) -> None:
        """Spawn and probe until ready; on any failure nothing stays running."""
        spec = self._spec
        loop = asyncio.get_running_loop()
        deadline = loop.time() + spec.ready_within
        seen = spec.progress() if spec.progress else None
        await self._spawn()
        try:
            while True:
                if self.pid is None:
                    tail = log_tail(spec.log)
                    again = spec.retry is not None and spec.retry(tail)
                    if not again or loop.time() >= deadline:
                        raise StartFailed(self._failure(_exit_text(self._status())))
                    await asyncio.sleep(0.1)
                    await self._spawn()
                if await self._is_ready():
                    return
                if spec.progress and (now := spec.progress()) != seen:
                    seen, deadline = now, loop.time() + spec.ready_within
                if loop.time() >= deadline:
                    raise StartFailed(self._failure(f"was not ready in {spec.ready_within:g} s"))
                await asyncio.sleep(0.05)
        except BaseException:
            await self._end(0)
            raise

    async def _is_ready(self) -> bool:
        # A probe that hangs must neither outlive the child nor the deadline by much.
        try:
            async with asyncio.timeout(2):
                return await self._spec.ready() and self.pid is not None
        except (OSError, TimeoutError):
            return False

    async def _spawn(self) -> None:
        spec = self._spec
        if spec.prepare:
            spec.prepare()
        _rotate(spec.log, keep_open=False)
        with spec.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *guarded(spec.command, spec.account, spec.death_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=spec.folder,
                env=dict(spec.environment),
                # Ctrl-C in the terminal reaches the supervisor alone, which then stops in order.
                start_new_session=True,
            )

    async def _end(self, grace: float) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        try:
            if grace > 0:
                _signal(child, self._spec.stop_signal)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await child.wait()
        finally:
            if child.returncode is None:
                _signal(child, signal.SIGKILL)
                await child.wait()

    def _status(self) -> int:
        return (self._child.returncode or 0) if self._child else 0

    def _failure(self, what: str) -> str:
        return f"{self.name} {what}; end of {self._spec.log}:\n{log_tail(self._spec.log)}"

    def _become(self, state: State, detail: str = "") -> None:
        self.state = state
        if state is State.READY:
            self._ready.set()
        if self._on_change:
            self._on_change(Report(self.name, state, self.pid, self._restarts, detail))


def guarded(
    command: Sequence[str],
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> list[str]:
    """The command, tied to the life of this process and run as `account`.

    setpriv rather than a preexec function: that one runs Python between fork and exec, which can
    deadlock in a process with threads. Where setpriv does not exist (macOS) the command stays as
    it is; a user can only be dropped on Linux.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None:
        if account is not None:
            raise StartFailed("dropping the root user needs setpriv (package util-linux)")
        return list(command)
    options = [f"--pdeathsig={death_signal.name.removeprefix('SIG')}"]
    if account is not None:
        options += [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
        options += ["--no-new-privs"]
        if account.reads_all:
            capability = _reading_capability()
            options += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
            # initdb looks for its programs with access(2), which ignores capabilities without.
            options += ["--securebits=+no_setuid_fixup"]
    return [setpriv, *options, "/bin/sh", "-c", _STILL_OURS, str(os.getpid()), *command]


async def run_once(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    account: Account | None = None,
) -> str:
    """Run a command to its end and return what it printed; StartFailed when it fails."""
    child = await asyncio.create_subprocess_exec(
        *guarded(command, account),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    text = output.decode(errors="replace")
    if child.returncode:
        raise StartFailed(f"{name} {_exit_text(child.returncode)}:\n{text}")
    return text


def _reading_capability() -> str:
    """DAC_READ_SEARCH, or DAC_OVERRIDE in containers (Docker's default set lacks the former)."""
    bounding = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            bounding = int(line.split()[1], 16)
    for name, bit in (("dac_read_search", 2), ("dac_override", 1)):
        if bounding >> bit & 1:
            return name
    raise StartFailed(
        "a folder above the data or the virtual environment is shut to other users, and this "
        "container has neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE: move it elsewhere"
    )


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, empty when there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 16 * 1024))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _rotate(log: Path, *, keep_open: bool) -> None:
    """Keep one older log. Children append, so a log in use is copied and cut to nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists() or log.stat().st_size < LOG_LIMIT:
        return
    older = log.with_name(log.name + ".1")
    if keep_open:
        shutil.copyfile(log, older)
        os.truncate(log, 0)
    else:
        log.replace(older)


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _exit_text(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
