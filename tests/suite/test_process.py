"""A supervised child: alive while wanted, gone when not, and clear about why it would not start."""

import asyncio
import itertools
import os
import pwd
import signal
import sys
from pathlib import Path

import pytest

from services.suite import process as process_module
from services.suite.process import Account, Backoff, Process, Report, Spec, StartFailed, State
from tests.suite.living import gone, program

_DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True)\nwhile True: signal.pause()"
)
_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from services.suite.process import Account, Process, Spec

async def supervise():
    async def ready():
        return True
    uid, gid = int(sys.argv[2]), int(sys.argv[3])
    child = Process(Spec(
        name="child", command=["/bin/sleep", "1000"], log=Path(sys.argv[1]), ready=ready,
        account=Account(uid, gid) if uid else None,
    ))
    await child.start()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(supervise())
"""


async def _at_once() -> bool:
    return True


async def _never() -> bool:
    return False


def _spec(folder: Path, *command: str, **changes: object) -> Spec:
    values = {"name": "part", "command": command, "log": folder / "part.log", "ready": _at_once}
    return Spec(**{**values, "backoff": Backoff(first=0.01), **changes})  # type: ignore[arg-type]


def _unprivileged() -> tuple[int, int]:
    """Somebody to become; only root can."""
    nobody = pwd.getpwnam("nobody")
    return (nobody.pw_uid, nobody.pw_gid) if os.geteuid() == 0 else (0, 0)


@pytest.mark.parametrize("account", [(0, 0), _unprivileged()], ids=["same user", "dropped user"])
async def test_killed_supervisor_leaves_no_orphan(account: tuple[int, int], tmp_path: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SUPERVISOR, str(tmp_path / "log"), *map(str, account)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert supervisor.stdout
    child = int(await supervisor.stdout.readline())
    os.kill(child, 0)

    supervisor.kill()
    await supervisor.wait()

    await gone(child)


async def test_killed_child_is_restarted_and_reported(tmp_path: Path) -> None:
    reports: list[Report] = []
    part = Process(_spec(tmp_path, "/bin/sleep", "1000"), on_change=reports.append)
    await part.start()
    first = part.pid
    assert first

    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(10):
        await part.restarted(after=0)

    assert part.pid not in (None, first)
    assert [report.state for report in reports] == [
        State.STARTING,
        State.READY,
        State.RESTARTING,
        State.READY,
    ]
    assert "killed by SIGKILL" in reports[2].detail
    await part.stop()


async def test_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "broken"
    script = f'test ! -e {mark} || {{ rm {mark}; echo "not yet"; exit 7; }}; exec sleep 1000'

    async def ready() -> bool:
        return program(part.pid) == "sleep"

    reports: list[Report] = []
    part = Process(_spec(tmp_path, "/bin/sh", "-c", script, ready=ready), on_change=reports.append)
    await part.start()
    mark.touch()
    assert part.pid

    os.kill(part.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await part.restarted(after=0)

    assert part.restarts == 2
    assert any("status 7" in report.detail and "not yet" in report.detail for report in reports)
    await part.stop()


@pytest.mark.parametrize(
    ("previous", "uptime", "expected"),
    [(0.0, 0.0, 0.2), (0.2, 1.0, 0.4), (4.0, 1.0, 5.0), (5.0, 29.9, 5.0), (5.0, 30.0, 0.2)],
    ids=["first", "doubles", "limited", "not yet healthy", "forgotten when healthy"],
)
def test_pause_between_restarts(previous: float, uptime: float, expected: float) -> None:
    assert Backoff().pause(previous, uptime) == expected


async def test_death_at_the_start_shows_status_and_end_of_log(tmp_path: Path) -> None:
    part = Process(_spec(tmp_path, "/bin/sh", "-c", "echo no such luck; exit 3", ready=_never))

    with pytest.raises(StartFailed, match=r"part ended with exit status 3(.|\n)*no such luck"):
        await part.start()


async def test_part_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    pids: list[int | None] = []

    async def ready() -> bool:
        pids.append(part.pid)
        return False

    part = Process(_spec(tmp_path, "/bin/sleep", "1000", ready=ready, ready_within=0.2))

    with pytest.raises(StartFailed, match=r"was not ready in 0\.2 s"):
        await part.start()

    assert pids[0]
    await gone(pids[0])


async def test_progress_puts_the_deadline_off(tmp_path: Path) -> None:
    asked = itertools.count()

    async def ready() -> bool:
        return next(asked) == 10

    moving = itertools.count()
    spec = _spec(
        tmp_path,
        *("/bin/sleep", "1000"),
        ready=ready,
        ready_within=0.2,
        progress=lambda: next(moving),
    )
    part = Process(spec)

    await part.start()

    assert next(asked) == 11
    await part.stop()


async def test_start_worth_a_retry_is_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "second"
    script = f"test -e {mark} || {{ touch {mark}; echo still in use; exit 1; }}; exec sleep 1000"

    async def ready() -> bool:
        return program(part.pid) == "sleep"

    spec = _spec(
        tmp_path, "/bin/sh", "-c", script, ready=ready, retry=lambda log: "still in use" in log
    )
    part = Process(spec)

    await part.start()

    assert part.restarts == 0
    await part.stop()


async def test_child_deaf_to_the_stop_signal_is_killed(tmp_path: Path) -> None:
    async def ready() -> bool:
        return "deaf" in (tmp_path / "part.log").read_text()

    part = Process(_spec(tmp_path, sys.executable, "-c", _DEAF, ready=ready))
    await part.start()
    pid = part.pid
    assert pid

    await part.stop(grace=0.1)

    assert part.state is State.STOPPED
    await gone(pid)


async def test_log_over_its_limit_is_rotated_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "LOG_LIMIT", 10)
    (tmp_path / "part.log").write_text("older than this start\n")
    part = Process(_spec(tmp_path, "/bin/sleep", "1000"))

    await part.start()

    assert (tmp_path / "part.log").read_text() == ""
    assert (tmp_path / "part.log.1").read_text() == "older than this start\n"
    await part.stop()


async def test_missing_program_is_a_failed_start(tmp_path: Path) -> None:
    part = Process(_spec(tmp_path, "/nonexistent/program", ready=_never))

    with pytest.raises(StartFailed, match="nonexistent"):
        await part.start()


def test_account_reads_nothing_more_unless_asked() -> None:
    plain = process_module.guarded(["true"], Account(1, 1))
    reading = process_module.guarded(["true"], Account(1, 1, reads_all=True))

    assert not any("ambient" in word for word in plain)
    assert any("ambient-caps=+dac_" in word for word in reading)
