"""Outcomes of phases as SQL, by position: what changes, differences and checks have in common.

Parameters: $1 the campaign's number, $2 and $3 the first position and the one behind the last, and
the run's parameter as told.
"""

from services.query.outcomes import ANALYSIS, DNS, GENERATION, HTTP, LEADS

BOUND = "campaign_no = $1 AND position >= $2 AND position < $3"
NAMES = f"SELECT position, name FROM domains WHERE {BOUND}"


def outcomes(phase: int, run: str) -> str:
    """Positions that the phase has rows of, with the number of the outcome."""
    of_run = f"{BOUND} AND run = {run}"
    return {
        # Names have no run, yet every statement takes the same parameters.
        GENERATION: f"SELECT position, 1 AS outcome FROM domains WHERE {BOUND} AND {run} > 0",
        DNS: f"SELECT position, verdict AS outcome FROM dns_results WHERE {of_run}",
        HTTP: f"SELECT position, verdict AS outcome FROM http_results WHERE {of_run}",
        ANALYSIS: f"""SELECT position, CASE WHEN with_keyword THEN 1 ELSE 2 END AS outcome
            FROM page_analyses WHERE {of_run}""",
        LEADS: f"SELECT position, reason AS outcome FROM leads WHERE {of_run}",
    }[phase]
