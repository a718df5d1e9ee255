"""`python -m services.schema`: what it prints, what it ends with."""

import asyncio
import os
import sys

from tests.schema.databases import FILES, executed


async def _run(url: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.schema", *arguments),
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": os.getcwd()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_up_status_and_down_say_what_they_did(empty_url: str) -> None:
    code, out, _ = await _run(empty_url, "status")
    assert (code, out) == (1, "".join(f"{name}\tpending\n" for name in FILES))

    assert await _run(empty_url) == (0, "".join(f"{name}\n" for name in FILES), "")
    code, out, _ = await _run(empty_url, "status")
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [[n, "applied"] for n in FILES]

    await executed(empty_url, "INSERT INTO leads VALUES (1, 1, 0, 1, 1, 0, NULL)")
    code, out, err = await _run(empty_url, "down", "--to", "0003")
    assert (code, out) == (1, "")
    assert "would be lost: 0005_query.sql: leads; --lose-data" in err
    done = await _run(empty_url, "down", "--to", "0003", "--lose-data")
    assert done == (0, "".join(f"{name}\n" for name in reversed(FILES[3:])), "")
    code, _, err = await _run(empty_url, "down", "--to", "0007")
    assert (code, err) == (1, "'0007' is the beginning of 0 applied migrations\n")
