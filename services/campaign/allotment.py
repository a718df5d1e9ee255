"""Which names of a pattern a campaign gets. Pure."""

from dataclasses import dataclass

from services.campaign.pattern import Pattern

# Offsets have 64 bits in contract and tables; names beyond are combinations that nobody gets.
MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What a campaign wants of a pattern."""

    pattern: Pattern
    # None: after all names that are taken; from 0 with overlap_allowed.
    first_offset: int | None
    # 0: all from first_offset on; all of the pattern when that is None.
    name_count: int
    overlap_allowed: bool = False

    @property
    def end(self) -> int:
        """The offset after the pattern's last name; saturates at MAX_OFFSET."""
        return min(self.pattern.combinations, MAX_OFFSET)

    @property
    def must_be_free(self) -> bool:
        """Whether the range is refused when somebody has part of it."""
        return self.first_offset is not None and not self.overlap_allowed


@dataclass(frozen=True, slots=True)
class Allotment:
    """A range of offsets, and how many names less than asked for it has."""

    first_offset: int
    name_count: int
    missing_count: int = 0

    @property
    def end(self) -> int:
        """The offset after the last one."""
        return self.first_offset + self.name_count


def allot(asked: Asked, next_free_offset: int) -> Allotment:
    """The range for who comes now, when all names from `next_free_offset` on are free.

    What is asked for from a chosen offset on is given whoever has it: see `must_be_free`.
    """
    first = asked.first_offset
    if first is None:
        first = 0 if asked.overlap_allowed else next_free_offset
    first = min(first, asked.end)
    from_offset = asked.first_offset or 0
    wanted = asked.name_count or asked.end - min(from_offset, asked.end)
    given = min(wanted, asked.end - first)
    return Allotment(first, given, wanted - given)
