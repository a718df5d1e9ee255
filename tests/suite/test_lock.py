"""Two suites never share a data folder."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.suite.lock import FolderInUse, FolderLock

_HOLDER = """
import sys
from pathlib import Path
from services.suite.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_second_suite_on_a_folder_is_refused_with_the_pid(tmp_path: Path) -> None:
    FolderLock(tmp_path)

    with pytest.raises(FolderInUse, match=str(os.getpid())):
        FolderLock(tmp_path)


def test_released_folder_can_be_locked_again(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()

    FolderLock(tmp_path).release()


async def test_killed_holder_gives_the_folder_back(tmp_path: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HOLDER, str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert holder.stdout
    await holder.stdout.readline()
    with pytest.raises(FolderInUse, match=str(holder.pid)):
        FolderLock(tmp_path)

    holder.kill()
    await holder.wait()

    FolderLock(tmp_path).release()
