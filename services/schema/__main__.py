"""Brings the database at DATABASE_URL up to date: `python -m services.schema`."""

import asyncio
import os
import sys

import asyncpg

from services.schema.migrate import MigrationChanged, migrate


def main() -> int:
    url = os.environ.get("DATABASE_URL")
    if not url:
        sys.stderr.write("DATABASE_URL is not set\n")
        return 2
    try:
        applied = asyncio.run(migrate(url))
    except MigrationChanged as changed:
        sys.stderr.write(f"{changed}: this applied migration was edited; restore the file\n")
        return 1
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.stderr.write(f"the database was not brought up to date: {error}\n")
        return 1
    sys.stdout.write("".join(f"{name}\n" for name in applied))
    return 0


if __name__ == "__main__":
    sys.exit(main())
