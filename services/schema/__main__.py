"""The tables of the database at DATABASE_URL: `python -m services.schema [up|down|status]`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

import asyncpg

from services.schema.locks import TablesInUse
from services.schema.migrate import (
    MigrationChanged,
    MigrationUnknown,
    State,
    WouldLose,
    migrate,
    revert,
    status,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Names of what was applied or taken back go to standard output. Returns 0 when done, 1 when
    not, 2 for wrong usage; `status` returns 1 where the database is not of this version."""
    asked = _parser().parse_args(arguments)
    url = os.environ.get("DATABASE_URL")
    if not url:
        _say("DATABASE_URL is not set")
        return 2
    try:
        return asyncio.run(_do(url, asked))
    except MigrationChanged as changed:
        _say(f"{changed}: this applied migration was edited; restore the file")
    except MigrationUnknown as unknown:
        _say(str(unknown))
    except WouldLose as lost:
        _say(f"nothing was taken back, for this would be lost: {lost}; --lose-data agrees to it")
    except TablesInUse as used:
        _say(f"the database stays as it was: {used}")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _say(f"the database was not brought to another version: {error}")
    return 1


async def _do(url: str, asked: argparse.Namespace) -> int:
    match asked.command:
        case "status":
            standings = await status(url)
            for each in standings:
                when = f"{each.apply_time:%Y-%m-%d %H:%M:%S}Z" if each.apply_time else ""
                sys.stdout.write(f"{each.name}\t{each.state}\t{when}\n".rstrip("\t\n") + "\n")
            return 0 if all(each.state is State.APPLIED for each in standings) else 1
        case "down":
            changed = await revert(
                url, steps=asked.steps, to=asked.to, lose_data=asked.lose_data, on_blocked=_say
            )
        case _:
            changed = await migrate(url, on_blocked=_say)
    sys.stdout.write("".join(f"{name}\n" for name in changed))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.schema", description=__doc__)
    commands = parser.add_subparsers(dest="command", title="commands")
    commands.add_parser("up", help="apply what is missing (this is what happens without a command)")
    commands.add_parser("status", help="what is applied and what is not; changes nothing")
    down = commands.add_parser(
        "down", help="take migrations back, newest first; stop the suite first"
    )
    how_far = down.add_mutually_exclusive_group()
    how_far.add_argument("--steps", type=_positive, default=1, metavar="N", help="so many (1)")
    how_far.add_argument("--to", metavar="NAME", help="all after this one, such as 0004; 0 is all")
    down.add_argument(
        "--lose-data", action="store_true", help="also where rows or values are lost by it"
    )
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of migrations")
    return int(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
