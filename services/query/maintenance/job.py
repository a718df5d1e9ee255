"""What a job is, and what it has in hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chassis.postgres import Connection, Pool


class CampaignGone(Exception):
    """The campaign does not exist any more, or is being deleted: what was begun is of no use."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What every job works with."""

    # The only one that writes. It holds the maintainer's lock: whoever loses it writes no more.
    connection: Connection
    # To read with; its connections cannot write.
    reads: Pool


class Job(Protocol):
    """Some work that is done in pieces, each of which can be cut off and done again."""

    @property
    def name(self) -> str: ...

    @property
    def period(self) -> float:
        """Seconds between two looks that find nothing."""
        ...

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        """The campaign to work on, by number, none of `aside`; 0: no campaign, but there is work;
        None: nothing is to be done."""
        ...

    async def work(self, hands: Hands, campaign_no: int) -> None:
        """The next piece: well under a second, or as short as it can be made.

        Raises CampaignGone, and whatever is the campaign's own fault.
        """
        ...

    async def leave_off(self) -> None:
        """End what goes on behind; the hands are not there any more."""
        ...


async def hold_campaign(connection: Connection, campaign_no: int) -> None:
    """Make sure that the campaign is there until the commit. Raises CampaignGone.

    Belongs in every transaction that adds rows of a campaign. A deletion locks the campaign's row
    before it removes derived rows for the last time: it waits for us, or we find nothing here.
    """
    found = await connection.fetchval(
        "SELECT 1 FROM campaigns WHERE no = $1 AND delete_time IS NULL FOR KEY SHARE", campaign_no
    )
    if found is None:
        raise CampaignGone(campaign_no)
