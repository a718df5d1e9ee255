"""Attempts in processes of their own, and what is known of their ends."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.chassis import postgres
from services.validation.attempt import CheckFailed, End, NotPrepared
from services.validation.isolation import Isolation, _from_json, _to_json
from services.validation.store import ChunkKey, Claim
from tests.eventually import eventually
from tests.suite.living import gone

CLAIM = Claim(
    ChunkKey(1, 2, 3, 4), 5, 6, b"\x00\xff", failure_count=7, name_rate_limit=8, park_count=9
)


def running(program: str, *, grace: float = 60, children: int = 8) -> Isolation:
    return Isolation([sys.executable, "-c", program], grace=grace, children=children)


def no_time() -> float:
    return 0


def test_a_claim_arrives_as_it_was_sent() -> None:
    assert _from_json(_to_json(CLAIM)) == (os.getpid(), CLAIM)


@pytest.mark.parametrize(("status", "end"), [(0, End.SETTLED), (3, End.NOT_OURS), (4, End.PARKED)])
async def test_the_child_says_how_its_attempt_ended(status: int, end: End) -> None:
    assert await running(f"exit({status})").attempt(CLAIM, no_time) is end


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the process that checked it was ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "the process that checked it was ended by SIGKILL"),
        ("raise ValueError('bad name')", "ValueError: bad name"),
        ("exit(7)", "the process that checked it ended with status 7"),
    ],
)
async def test_a_child_that_fails_is_a_failure_with_its_cause(program: str, cause: str) -> None:
    with pytest.raises(CheckFailed) as failure:
        await running(program).attempt(CLAIM, no_time)
    assert str(failure.value) == cause


async def test_a_child_that_could_not_begin_blames_no_name() -> None:
    program = "import sys; sys.stderr.write('no such setting'); exit(78)"
    with pytest.raises(NotPrepared, match="no such setting"):
        await running(program).attempt(CLAIM, no_time)
    with pytest.raises(NotPrepared, match="no process of its own"):
        await Isolation(["/does/not/exist"]).attempt(CLAIM, no_time)


async def test_a_child_whose_database_is_away_is_no_failure() -> None:
    program = "import sys; sys.stderr.write('it is away'); exit(75)"
    with pytest.raises(postgres.AWAY, match="is away"):
        await running(program).attempt(CLAIM, no_time)


async def test_a_child_that_hangs_is_ended() -> None:
    with pytest.raises(CheckFailed, match="did not end in its time"):
        await running("import time; time.sleep(600)", grace=0.1).attempt(CLAIM, no_time)


async def test_what_a_child_says_is_kept_in_part_only() -> None:
    program = "import sys; sys.stderr.write('x' * 1_000_000 + '\\nthe end\\n'); exit(1)"
    with pytest.raises(CheckFailed, match=r"^the end$"):
        await running(program).attempt(CLAIM, no_time)


async def test_a_child_ends_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    program = (
        f"import os, time; open({str(said)!r}, 'w').write(f'{{os.getpid()}}.'); time.sleep(600)"
    )
    attempt = asyncio.create_task(running(program).attempt(CLAIM, no_time))

    async def begun() -> int:
        assert said.exists()
        assert said.read_text().endswith(".")
        return int(said.read_text()[:-1])

    pid = await eventually(begun)
    attempt.cancel()
    await asyncio.wait([attempt])
    await gone(pid)


async def test_no_more_children_than_allowed_are_there_at_once(tmp_path: Path) -> None:
    """Each leaves a file, and stays until told to go."""
    program = (
        f"import os, time, pathlib; p = pathlib.Path({str(tmp_path)!r});"
        "(p / str(os.getpid())).touch()\n"
        "while not (p / 'go').exists(): time.sleep(0.01)"
    )
    isolation = running(program, children=2)
    attempts = [asyncio.create_task(isolation.attempt(CLAIM, no_time)) for _ in range(4)]

    async def two_begun() -> None:
        assert len(os.listdir(tmp_path)) == 2

    await eventually(two_begun)
    (tmp_path / "go").touch()
    assert await asyncio.gather(*attempts) == [End.SETTLED] * 4
    assert len(os.listdir(tmp_path)) == 5
