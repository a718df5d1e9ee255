"""Campaigns steered through the door: run again, changed while they run, put away, deleted."""

import uuid
from typing import Any

import pytest

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import dns_pb2
from tests.eventually import eventually
from tests.system.campaigns import DNS, Trial, World, check_every_verdict, insist, stream_domains

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = 4_000
COMPLETED, RUNNING = campaign_pb2.PHASE_STATUS_COMPLETED, campaign_pb2.PHASE_STATUS_RUNNING


async def phase(trial: Trial) -> campaign_pb2.PhaseState:
    request = campaign_service_pb2.GetCampaignRequest(campaign_id=trial.campaign_id)
    campaign = (await insist(trial.world.campaigns.GetCampaign, request)).campaign
    return next(state for state in campaign.phases if state.phase == DNS)


async def verdict_counts(trial: Trial) -> dict[str, int]:
    request = query_service_pb2.GetDomainSummaryRequest(campaign_id=trial.campaign_id)
    summary = await insist(trial.world.query.GetDomainSummary, request)
    return {
        dns_pb2.DnsVerdict.Name(entry.verdict): entry.count for entry in summary.dns_verdict_counts
    }


async def test_a_rerun_shows_the_old_results_until_it_is_complete(world: World) -> None:
    trial = await Trial.begin(world, NAMES)
    await trial.finished()
    await check_every_verdict(trial)
    before, counts = await stream_domains(trial), await verdict_counts(trial)
    which: dict[str, Any] = {"campaign_id": trial.campaign_id, "phase": DNS}

    # Half the answers' time and another chunk size: the run to come may differ in how, not in what.
    configure = campaign_service_pb2.ConfigurePhaseRequest(**which)
    configure.configuration.dns.resolvers.append(world.resolver)
    configure.configuration.dns.window = 100
    configure.configuration.dns.chunk_size = 250
    await insist(world.campaigns.ConfigurePhase, configure)
    rerun = campaign_service_pb2.RerunPhaseRequest(**which, request_id=str(uuid.uuid4()))
    answer = await insist(world.campaigns.RerunPhase, rerun)
    assert answer.campaign.status == RUNNING

    again = Trial.attached(trial)
    await again.until(lambda t: t.share() > 0.2)
    pause = campaign_service_pb2.PauseCampaignRequest(campaign_id=trial.campaign_id)
    await insist(world.campaigns.PauseCampaign, pause)
    paused = await phase(trial)
    assert (paused.run, paused.result_run) == (2, 1)
    assert 0 < paused.settled_count < NAMES
    assert await stream_domains(trial) == before
    assert await verdict_counts(trial) == counts

    resume = campaign_service_pb2.ResumeCampaignRequest(campaign_id=trial.campaign_id)
    await insist(world.campaigns.ResumeCampaign, resume)
    await again.finished()
    done = await phase(trial)
    assert (done.run, done.result_run, done.status) == (2, 2, COMPLETED)
    after = await stream_domains(trial)
    assert (after.names, after.verdicts) == (before.names, before.verdicts)
    rows = await world.rows(
        """SELECT run, count(*), count(DISTINCT position) FROM dns_results r
           JOIN campaigns k ON k.no = r.campaign_no WHERE k.id = $1 GROUP BY run ORDER BY run""",
        uuid.UUID(trial.campaign_id),
    )
    assert [tuple(row) for row in rows] == [(1, NAMES, NAMES), (2, NAMES, NAMES)]
    # All chunks of the new size: what was configured has its effect.
    assert {count for (number, _), count in again.settled.items() if number == DNS} == {250}


async def test_json_changes_lists_archives_and_deletes(world: World) -> None:
    trial = await Trial.begin(world, 500)
    await trial.finished()
    path = f"/v1/campaigns/{trial.campaign_id}"

    async with world.http.get(path) as answer:
        etag = (await answer.json())["campaign"]["etag"]
    body = {"name": "renamed", "priority": "PRIORITY_HIGH", "nameRateLimit": 250, "etag": etag}
    async with world.http.patch(path, json=body) as answer:
        changed = (await answer.json())["campaign"]
    assert (changed["name"], changed["priority"], changed["nameRateLimit"]) == (
        "renamed",
        "PRIORITY_HIGH",
        250,
    )
    async with world.http.patch(path, json=body) as answer:
        assert answer.status == 409
        assert "etag" in (await answer.json())["message"]

    query = {"filter": 'name : "enam" AND status = COMPLETED', "orderBy": "name desc"}
    async with world.http.get("/v1/campaigns", params=query) as answer:
        listed = (await answer.json())["campaigns"]
    assert [campaign["campaignId"] for campaign in listed] == [trial.campaign_id]
    async with world.http.get("/v1/campaigns", params={"filter": "colour = red"}) as answer:
        assert answer.status == 400

    async with world.http.post(f"{path}:archive", json={}) as answer:
        assert (await answer.json())["campaign"]["archiveTime"]
    async with world.http.get("/v1/campaigns", params=query) as answer:
        assert not (await answer.json())["campaigns"]

    async with world.http.delete(path, params={"reason": "done with it"}) as answer:
        assert (await answer.json())["campaign"]["deletion"]["requestTime"]

    async def gone() -> None:
        async with world.http.get(path) as answer:
            assert answer.status == 404

    await eventually(gone, within=30)
    left = await world.value("SELECT count(*) FROM deletions WHERE finish_time IS NULL")
    assert left == 0


async def test_json_previews_a_pattern_and_lists_what_is_empty(world: World) -> None:
    constant = f"p{uuid.uuid4().hex[:8]}"
    pattern = {
        "type": "PATTERN_TYPE_PREFIX",
        "prefixLength": 2,
        "characterSet": "abc",
        "constant": constant,
        "tlds": [".com", ".net"],
    }
    async with world.http.post("/v1/patterns:preview", json={"pattern": pattern}) as answer:
        preview = await answer.json()
    assert (preview["combinationCount"], preview["nextFreeOffset"]) == ("18", "0")
    assert preview["sample"][:3] == [f"aa{constant}.com", f"aa{constant}.net", f"ab{constant}.com"]
    assert preview["exhaustionWarning"]

    async with world.http.get("/v1/deadLetters") as answer:
        assert await answer.json() == {"deadLetters": [], "nextPageToken": ""}
    async with world.http.get("/v1/pools") as answer:
        assert "workerPools" in await answer.json()
