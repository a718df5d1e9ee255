"""The migrations as files: what brings a version, what takes it back. Knows no database."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"

_BACK = ".down.sql"
# "-- Loses what it is: SELECT FROM table WHERE ..."
_LOSS = re.compile(
    r"^-- Loses (?P<words>.+?): (?P<query>SELECT FROM (?P<table>\w+).*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Loss:
    """What going back takes away for good, where `query` finds any of it in `table`."""

    words: str
    table: str
    query: str


@dataclass(frozen=True, slots=True)
class Migration:
    """`sql` brings the database from the version before; `back` returns it to there."""

    name: str
    sql: str
    back: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What the head of the way back says that it loses."""
        found = _LOSS.finditer(self.back)
        return tuple(Loss(m["words"], m["table"], m["query"]) for m in found)


def migrations() -> list[Migration]:
    """All of them, in their order."""
    paths = sorted(p for p in MIGRATIONS.glob("[0-9]*.sql") if not p.name.endswith(_BACK))
    return [Migration(p.name, p.read_text(), p.with_suffix(_BACK).read_text()) for p in paths]
