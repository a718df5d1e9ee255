"""What HTTP has to know of names before it asks for their pages. Only reads."""

from dataclasses import dataclass

from domainflow.validation.v1 import dns_pb2
from services.chassis.postgres import Pool
from services.validation.dns import wire
from services.validation.http_rows import HttpOutcome
from services.validation.parked import Waiting

_NS = dns_pb2.RecordType.ValueType(wire.NS)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name whose page is to be asked for."""

    position: int
    name: str
    # As DNS has stored them; empty where it was left out.
    addresses: tuple[str, ...] = ()
    # Those of its delegation, where DNS was asked for them.
    name_servers: tuple[str, ...] = ()
    # Why it must not be asked for; empty: it may be.
    excluded: str = ""
    # What is known since its chunk was set aside: all, or that it is to be asked for again.
    finished: HttpOutcome | None = None
    waiting: Waiting | None = None


class SiteStore:
    """Names, and what DNS found out about them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def candidates(
        self,
        campaign_no: int,
        source_run: int,
        first: int,
        last: int,
        *,
        limit: int,
        with_evidence: bool,
    ) -> list[Candidate]:
        """Candidates of HTTP from position `first` to `last`, in order, at most `limit`.

        `source_run`: the run of DNS that says which they are; 0: DNS was left out, all are.
        `with_evidence`: also read what DNS stored beyond addresses.
        """
        rows = await self._pool.fetch(
            # The ranges are said again, or the planner might read all of the campaign.
            """SELECT c.position, d.name, r.addresses, CASE WHEN $6 THEN r.evidence END AS evidence
               FROM candidate_positions($1, 3::smallint, $2, $3, $4, $5) AS c (position)
               JOIN domains d ON d.campaign_no = $1 AND d.position = c.position
                   AND d.position BETWEEN $3 AND $4
               LEFT JOIN dns_results r ON r.campaign_no = $1 AND r.run = $2
                   AND r.position = c.position AND r.position BETWEEN $3 AND $4
               ORDER BY c.position""",
            campaign_no,
            source_run,
            first,
            last,
            limit,
            with_evidence,
        )
        return [
            Candidate(
                row["position"],
                row["name"],
                tuple(row["addresses"].split(",")) if row["addresses"] else (),
                _name_servers(row["evidence"]) if row["evidence"] else (),
            )
            for row in rows
        ]


def _name_servers(evidence: bytes) -> tuple[str, ...]:
    records = dns_pb2.DnsEvidence.FromString(evidence).records
    return tuple(server for it in records if it.type == _NS for server in it.records)
