"""JSON, gRPC-Web and reflection through the door, right requests and wrong ones."""

import asyncio
import base64
import json
import struct
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow.ipc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from domainflow.campaign.v1 import campaign_service_pb2
from domainflow.campaign.v1.campaign_pb2 import PHASE_DNS_VALIDATION
from domainflow.query.v1 import query_service_pb2, read_session_pb2, stream_pb2
from domainflow.query.v1.consistency_pb2 import READ_SOURCE_PRIMARY
from domainflow.validation.v1 import validation_service_pb2
from domainflow.validation.v1.dns_pb2 import DnsVerdict
from domainflow.validation.v1.dns_settings_pb2 import DnsResolver, DnsSettings
from services.sandbox.truth import Mix, truth
from tests.eventually import eventually
from tests.refusals import refused
from tests.system.campaigns import SEED, Trial, World, check_every_verdict, expected_names
from tests.system.conftest import WORKERS

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = 3_000
BUF = Path(sys.executable).parent / "buf"
SERVICES = {
    "domainflow.campaign.v1.CampaignService",
    "domainflow.query.v1.QueryService",
    "domainflow.validation.v1.ValidationService",
}
UNKNOWN = "0190a000-0000-7000-8000-00000000dead"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def finished(world: World) -> AsyncIterator[Trial]:
    """A small campaign that is over."""
    trial = await Trial.begin(world, NAMES)
    await trial.finished()
    await check_every_verdict(trial)
    yield trial


def creation(resolver: str, **pattern: Any) -> dict[str, Any]:
    """A good request in JSON, but for what `pattern` changes."""
    return {
        "name": "made with JSON",
        "mode": "CAMPAIGN_MODE_FULL_SEQUENCE",
        "configuration": {
            "generation": {
                "pattern": {
                    "type": "PATTERN_TYPE_SUFFIX",
                    "suffixLength": 2,
                    "characterSet": "abc",
                    "constant": "json",
                    "tlds": [".com"],
                    **pattern,
                }
            },
            "dns": {"resolvers": [resolver], "timeout": "0.5s", "attemptLimit": 4},
        },
    }


async def test_campaign_is_made_followed_and_read_in_json(world: World) -> None:
    request_id = str(uuid.uuid4())
    body = creation(world.resolver) | {"requestId": request_id}
    async with world.http.post("/v1/campaigns", json=body) as answer:
        assert answer.status == 200
        created = (await answer.json())["campaign"]
    async with world.http.post("/v1/campaigns", json=body) as answer:
        assert (await answer.json())["campaign"] == created
    campaign_id = created["campaignId"]
    assert (created["status"], created["revision"]) == ("PHASE_STATUS_CONFIGURED", "1")

    async with world.http.post(f"/v1/campaigns/{campaign_id}:start", json={}) as answer:
        assert (await answer.json())["campaign"]["status"] == "PHASE_STATUS_RUNNING"
    arguments = {"campaignIds": campaign_id, "untilFinished": "true"}
    async with world.http.get("/v1/campaigns:watch", params=arguments) as answer:
        messages = [json.loads(line) async for line in answer.content]
    assert set(messages[0]) == {"state"}
    assert messages[1]["bookmark"]["initialStateSent"]
    events = [message["event"] for message in messages if "event" in message]
    first = int(messages[0]["state"]["revision"])
    revisions = list(range(first + 1, first + 1 + len(events)))
    assert [int(event["revision"]) for event in events] == revisions
    assert events[-1]["campaignFinished"] == {"status": "PHASE_STATUS_COMPLETED"}

    async with world.http.get(f"/v1/campaigns/{campaign_id}/receipt") as answer:
        receipt = (await answer.json())["receipt"]
    assert receipt["balanced"]
    assert [phase["nameCount"] for phase in receipt["phases"]] == ["9", "9"]
    async with world.http.get("/v1/campaigns", params={"pageSize": "1"}) as answer:
        page = await answer.json()
    assert [campaign["campaignId"] for campaign in page["campaigns"]] == [campaign_id]
    async with world.http.get(f"/v1/campaigns/{campaign_id}/domains") as answer:
        listed = await answer.json()
    names = [f"json{a}{b}.com" for a in "abc" for b in "abc"]
    assert [domain["name"] for domain in listed["domains"]] == names
    assert all(domain["dns"]["verdict"] for domain in listed["domains"])


async def test_persona_is_made_used_and_carried_elsewhere_in_json(world: World) -> None:
    async def call(method: str, path: str, body: Any = None) -> Any:
        async with world.http.request(method, path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    settings = {"resolvers": [{"address": world.resolver}], "canariesDisabled": True}
    persona = {"name": "json", "settings": settings}
    made = (await call("POST", "/v1/dns-personas", {"dnsPersona": persona}))["dnsPersona"]
    path = f"/v1/dns-personas/{made['dnsPersonaId']}"
    assert (await call("GET", "/v1/dns-personas"))["dnsPersonas"] == [made]
    changed = {**(await call("GET", path))["dnsPersona"], "description": "of the sandbox"}
    changed = (await call("PUT", path, {"dnsPersona": changed}))["dnsPersona"]
    assert (changed["name"], changed["description"]) == ("json", "of the sandbox")
    asked = {"dnsPersonaId": made["dnsPersonaId"], "names": ["json.com"]}
    tested = await call("POST", "/v1/dns-personas:test", asked)
    checked = await call("POST", "/v1/names:check", asked)
    right = DnsVerdict.Name(truth("json.com", SEED, Mix()).verdict)
    (resolver,) = tested["resolverTests"]
    for (found,) in (resolver["checkedNames"], checked["checkedNames"]):
        assert found["dns"]["verdict"] == right

    ids = {"dnsPersonaIds": [made["dnsPersonaId"]]}
    document = (await call("GET", f"/v1/dns-personas:export?{urlencode(ids, True)}"))["document"]
    await call("DELETE", path)
    imported = await call("POST", "/v1/dns-personas:import", {"document": document})
    (again,) = imported["dnsPersonas"]
    assert again["settings"] == changed["settings"]

    body = creation(world.resolver, constant="persona")
    body["configuration"]["dns"] = {"dnsPersonaId": again["dnsPersonaId"]}
    created = (await call("POST", "/v1/campaigns", body))["campaign"]
    assert created["configuration"]["dns"]["settings"] == again["settings"]
    await call("DELETE", f"/v1/dns-personas/{again['dnsPersonaId']}")


async def test_one_domain_comes_with_what_is_known_of_it(finished: Trial) -> None:
    path = f"/v1/campaigns/{finished.campaign_id}/domains/7"
    async with finished.world.http.get(path) as answer:
        domain = (await answer.json())["domain"]

    name = list(expected_names(8, finished.constant))[7]
    assert (domain["position"], domain["name"]) == ("7", name)
    assert domain["dns"]["verdict"] == DnsVerdict.Name(truth(name, SEED, Mix()).verdict)
    async with finished.world.http.get("/v1/resolvers") as answer:
        reports = (await answer.json())["resolvers"]
    assert finished.world.resolver in {report["resolver"] for report in reports}


async def test_names_are_checked_over_a_stream_and_one_that_is_cut_harms_no_other(
    world: World,
) -> None:
    def batch(count: int) -> Any:
        names = validation_service_pb2.NameBatch(names=expected_names(count, "streamed"))
        return validation_service_pb2.ValidateDomainsRequest(batch=names)

    settings = DnsSettings(resolvers=[DnsResolver(address=world.resolver)], canaries_disabled=True)
    start = validation_service_pb2.ValidateDomainsRequest(
        start=validation_service_pb2.ValidateStart(settings=settings)
    )
    cut = world.validation.ValidateDomains(iter([start, *[batch(1000)] * 50]))
    assert (await cut.read()).results.names
    cut.cancel()

    *answers, last = [
        answer async for answer in world.validation.ValidateDomains(iter([start, batch(50)]))
    ]

    found = {name.index: name for answer in answers for name in answer.results.names}
    names = list(expected_names(50, "streamed"))
    assert [found[index].name for index in range(50)] == names
    assert [found[index].dns.verdict for index in range(50)] == [
        truth(name, SEED, Mix()).verdict for name in names
    ]
    assert last.summary.name_count == 50


async def test_domains_stream_as_lines_of_json(finished: Trial) -> None:
    body = {
        "campaignIds": [finished.campaign_id],
        "columns": ["DOMAIN_COLUMN_NAME", "DOMAIN_COLUMN_DNS_VERDICT"],
        "batchSize": 500,
    }
    async with finished.world.http.post("/v1/domains:stream", json=body) as answer:
        assert answer.status == 200
        messages = [json.loads(line) async for line in answer.content]

    batches = [message["batch"] for message in messages[:-1]]
    assert [batch["domainCount"] for batch in batches] == [500] * 6
    names = [name for batch in batches for name in batch["names"]]
    assert names == list(expected_names(NAMES, finished.constant))
    summary = messages[-1]["summary"]
    assert (summary["domainCount"], summary["unreachable"]) == (str(NAMES), [])

    body["cursor"] = batches[3]["cursor"]
    async with finished.world.http.post("/v1/domains:stream", json=body) as answer:
        rest = [json.loads(line) async for line in answer.content]
    assert [message["batch"]["names"] for message in rest[:-1]] == [
        batch["names"] for batch in batches[4:]
    ]


async def test_every_stream_of_the_query_service_passes_the_door(finished: Trial) -> None:
    query, campaign_id = finished.world.query, finished.campaign_id
    names = list(expected_names(NAMES, finished.constant))

    request = stream_pb2.StreamEnrichedRequest(campaign_ids=[campaign_id], batch_size=500)
    *enriched, end = [message async for message in query.StreamEnriched(request)]
    assert [name for message in enriched for name in message.batch.names] == names
    assert end.summary.row_count == NAMES
    assert end.summary.freshness.source == READ_SOURCE_PRIMARY

    # The campaign ends with DNS.
    request = stream_pb2.StreamLeadsRequest(campaign_ids=[campaign_id])
    (end,) = [message async for message in query.StreamLeads(request)]
    assert (end.summary.row_count, list(end.summary.unreachable)) == (0, [])

    request = stream_pb2.StreamLogsRequest(campaign_ids=[campaign_id])
    *logs, end = [message async for message in query.StreamLogs(request)]
    events = [event for message in logs for event in message.batch.events]
    assert [event.revision for event in events] == sorted({event.revision for event in events})
    assert end.summary.row_count == len(events)
    assert events[-1].WhichOneof("kind") == "campaign_finished"

    request = stream_pb2.StreamChangesRequest(campaign_id=campaign_id)
    *changes, end = [message async for message in query.StreamChanges(request)]
    # Each name was generated, and then asked about.
    assert end.summary.row_count == 2 * NAMES
    request.phase = PHASE_DNS_VALIDATION
    *changes, end = [message async for message in query.StreamChanges(request)]
    changed = {
        position: outcome
        for message in changes
        for position, outcome in zip(message.batch.positions, message.batch.outcomes, strict=True)
    }
    assert changed == {n: truth(name, SEED, Mix()).verdict for n, name in enumerate(names)}
    request.since_revision = end.summary.revision
    (end,) = [message async for message in query.StreamChanges(request)]
    assert (end.summary.row_count, end.summary.revision) == (0, request.since_revision)

    request = stream_pb2.StreamDifferencesRequest(campaign_id=campaign_id)
    assert (await refused(query.StreamDifferences(request).read())).reason == "RUN_NOT_FOUND"


async def test_rows_of_a_session_are_read_through_the_door_side_by_side(finished: Trial) -> None:
    query = finished.world.query
    request = read_session_pb2.CreateReadSessionRequest(
        campaign_id=finished.campaign_id, columns=["position", "name"], max_streams=2
    )
    session = (await query.CreateReadSession(request)).session
    schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(session.arrow_schema))

    async def rows(stream: str) -> list[dict[str, Any]]:
        read = read_session_pb2.ReadRowsRequest(read_stream=stream)
        batches = [message.arrow_record_batch async for message in query.ReadRows(read)]
        return [
            row
            for batch in batches
            for row in pyarrow.ipc.read_record_batch(pyarrow.py_buffer(batch), schema).to_pylist()
        ]

    divide = read_session_pb2.SplitReadStreamRequest(read_stream=session.streams[-1].name)
    parts = await query.SplitReadStream(divide)
    streams = [stream.name for stream in session.streams[:-1]]
    streams += [part.name for part in (parts.primary_stream, parts.remainder_stream) if part.name]
    found = await asyncio.gather(*map(rows, streams or [session.streams[-1].name]))

    names = expected_names(NAMES, finished.constant)
    assert [row for rows in found for row in rows] == [
        {"position": position, "name": name} for position, name in enumerate(names)
    ]


async def test_figures_of_a_campaign_come_through_the_door(finished: Trial) -> None:
    async def get(path: str) -> Any:
        async with finished.world.http.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    path = f"/v1/campaigns/{finished.campaign_id}"
    verdicts = [
        truth(name, SEED, Mix()).verdict for name in expected_names(NAMES, finished.constant)
    ]
    summary = await get(f"{path}/domains:summary?consistency.minimizeLatency=true")
    assert summary["freshness"]["source"] == "READ_SOURCE_PRIMARY"
    revision = int(summary["freshness"]["revision"])
    assert revision > 0
    counts = {count["verdict"]: int(count["count"]) for count in summary["dnsVerdictCounts"]}
    assert counts == {DnsVerdict.Name(each): verdicts.count(each) for each in set(verdicts)}
    tlds = (await get(f"{path}/tlds"))["tldCounts"]
    assert {tld["tld"] for tld in tlds} == {"com", "example"}
    for other in ("funnel", "rejections", "tlds"):
        answer = await get(f"{path}/{other}?consistency.atLeastAsFresh={revision}")
        assert int(answer["freshness"]["revision"]) >= revision
    checked = await get(f"{path}/counters:check")
    assert checked["drifts"] == []
    listed = await get(
        f"{path}/domains?filter.tlds=com&order=DOMAIN_ORDER_NAME&descending=true&pageSize=3"
    )
    names = sorted(n for n in expected_names(NAMES, finished.constant) if n.endswith(".com"))
    assert [domain["name"] for domain in listed["domains"]] == names[:-4:-1]
    assert (await get("/v1/database"))["serverVersion"].startswith("18")
    assert "recommendations" in await get("/v1/database/recommendations")
    assert "figures" in await get("/v1/database/queries")


async def test_enriched_rows_stream_as_lines_of_json(finished: Trial) -> None:
    body = {"campaignIds": [finished.campaign_id], "batchSize": 1000}
    async with finished.world.http.post("/v1/domains:streamEnriched", json=body) as answer:
        assert answer.status == 200
        *batches, end = [json.loads(line) async for line in answer.content]
    names = [name for message in batches for name in message["batch"]["names"]]
    assert names == list(expected_names(NAMES, finished.constant))
    assert end["summary"]["rowCount"] == str(NAMES)

    path = f"/v1/campaigns/{finished.campaign_id}/domains:streamChanges"
    arguments = {"phase": "PHASE_DNS_VALIDATION", "batchSize": "1000"}
    async with finished.world.http.get(path, params=arguments) as answer:
        assert answer.status == 200
        *_, end = [json.loads(line) async for line in answer.content]
    assert end["summary"]["rowCount"] == str(NAMES)


PATTERN = "configuration.generation.pattern"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"characterSet": ""}, f"{PATTERN}.character_set"),
        ({"characterSet": "a_b"}, f"{PATTERN}.character_set"),
        ({"tlds": ["com"]}, f"{PATTERN}.tlds[0]"),
        ({"tlds": []}, f"{PATTERN}.tlds"),
        # A label of 64: what stands around the variable characters is too long for them.
        ({"suffixLength": 60}, f"{PATTERN}.constant"),
        ({"suffixLength": -1}, f"{PATTERN}.suffix_length"),
        ({"firstOffset": 9}, f"{PATTERN}.first_offset"),
        ({"firstOffset": -1}, f"{PATTERN}.first_offset"),
        ({"firstOffset": "9223372036854775807"}, f"{PATTERN}.first_offset"),
        ({"nameCount": 10}, f"{PATTERN}.name_count"),
        ({"nameCount": "1000000001"}, f"{PATTERN}.name_count"),
        ({"type": "PATTERN_TYPE_UNSPECIFIED"}, f"{PATTERN}.type"),
        ({"constant": "j" * 64}, f"{PATTERN}.constant"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
async def test_bad_pattern_is_refused_by_name_of_its_field(
    world: World, change: dict[str, Any], field: str
) -> None:
    before = await _everything(world)

    body = creation(world.resolver, **change)
    async with world.http.post("/v1/campaigns", json=body) as answer:
        refusal = await answer.json()

    assert (answer.status, refusal["code"]) == (400, 3)
    assert _reason(refusal) == "INVALID_FIELDS"
    assert _fields(refusal) == {field}
    assert await _everything(world) == before


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b'{"name": "x", "nmae": "y"}',
        b'{"name": "x", "mode": "SOMETIMES"}',
        b'{"configuration": {"generation": {"pattern": {"nameCount": "many"}}}}',
        b'{"configuration": {"generation": {"pattern": {"nameCount": 99999999999999999999}}}}',
        b'{"configuration": {"generation": {"pattern": {"suffixLength": 1.5}}}}',
        b'{"name": "\xff\xfe"}',
        b"[" * 10_000,
        b'{"configuration":' * 5_000,
    ],
    ids=lambda body: body[:30].decode(errors="replace") or "nothing",
)
async def test_malformed_body_is_refused_as_json(world: World, body: bytes) -> None:
    before = await _everything(world)

    headers = {"content-type": "application/json"}
    async with world.http.post("/v1/campaigns", data=body, headers=headers) as answer:
        refusal = await answer.json()

    assert (answer.status, refusal["code"]) == (400, 3)
    assert refusal["message"]
    assert await _everything(world) == before


@pytest.mark.parametrize(
    ("path", "status", "reason", "field"),
    [
        (f"/v1/campaigns/{UNKNOWN}", 404, "CAMPAIGN_NOT_FOUND", None),
        (f"/v1/campaigns/{UNKNOWN}/receipt", 404, "CAMPAIGN_NOT_FOUND", None),
        (f"/v1/campaigns/{UNKNOWN}/domains", 404, "CAMPAIGN_NOT_FOUND", None),
        (f"/v1/campaigns/{UNKNOWN}/domains:summary", 404, "CAMPAIGN_NOT_FOUND", None),
        (f"/v1/campaigns/{UNKNOWN}/domains/0", 404, "CAMPAIGN_NOT_FOUND", None),
        (f"/v1/campaigns/{UNKNOWN}/domains/1000000000", 400, "INVALID_FIELDS", "position"),
        (f"/v1/campaigns/{UNKNOWN}/domains/first", 400, None, None),
        (f"/v1/dns-personas/{UNKNOWN}", 404, "DNS_PERSONA_NOT_FOUND", None),
        ("/v1/dns-personas/export", 400, "INVALID_FIELDS", "dns_persona_id"),
        ("/v1/dns-personas:export?dnsPersonaIds=x", 400, "INVALID_FIELDS", "dns_persona_ids[0]"),
        ("/v1/dns-personas?pageToken=stolen", 400, "INVALID_TOKEN", "page_token"),
        ("/v1/resolvers?resolvre=x", 400, None, None),
        (f"/v1/campaigns:watch?campaignIds={UNKNOWN}", 404, "CAMPAIGN_NOT_FOUND", None),
        ("/v1/campaigns/not-an-id", 400, "INVALID_FIELDS", "campaign_id"),
        ("/v1/campaigns/not-an-id/domains", 400, "INVALID_FIELDS", "campaign_id"),
        ("/v1/campaigns:watch?campaignIds=not-an-id", 400, "INVALID_FIELDS", "campaign_ids[0]"),
        ("/v1/domains:stream?campaignIds=not-an-id", 400, "INVALID_FIELDS", "campaign_ids[0]"),
        ("/v1/domains:stream", 400, "INVALID_FIELDS", "campaign_ids"),
        ("/v1/campaigns?pageSize=-1", 400, "INVALID_FIELDS", "page_size"),
        ("/v1/campaigns?pageToken=stolen", 400, "INVALID_TOKEN", "page_token"),
        (f"/v1/campaigns/{UNKNOWN}/domains?pageSize=-1", 400, "INVALID_FIELDS", "page_size"),
        (
            f"/v1/campaigns/{UNKNOWN}/domains?startPosition=1000000000",
            400,
            "INVALID_FIELDS",
            "start_position",
        ),
        (f"/v1/campaigns/{UNKNOWN}/domains?pageToken=stolen", 400, "INVALID_TOKEN", "page_token"),
        (
            f"/v1/domains:stream?campaignIds={UNKNOWN}&cursor=stolen",
            400,
            "INVALID_TOKEN",
            "cursor",
        ),
        ("/v1/campaigns?pageSize=99999999999", 400, None, None),
        ("/v1/campaigns?pageSize=many", 400, None, None),
        ("/v1/campaigns?pageSzie=7", 400, None, None),
        ("/v1/campaign", 404, None, None),
        ("/v2/campaigns", 404, None, None),
    ],
)
async def test_bad_read_is_refused_with_its_reason(
    world: World, path: str, status: int, reason: str | None, field: str | None
) -> None:
    async with world.http.get(path) as answer:
        refusal = await answer.json()

    assert answer.status == status
    assert refusal["code"] == {400: 3, 404: 5}[status]
    assert refusal["message"]
    if reason is not None:
        assert _reason(refusal) == reason
    if field is not None:
        assert _fields(refusal) == {field}


async def test_page_token_of_another_list_is_refused(finished: Trial) -> None:
    world = finished.world
    url = f"/v1/campaigns/{finished.campaign_id}/domains"
    async with world.http.get(url, params={"pageSize": "10"}) as answer:
        token = (await answer.json())["nextPageToken"]

    for path, other in (
        (url, {"dnsVerdicts": "DNS_VERDICT_RESOLVED"}),
        (f"/v1/campaigns/{UNKNOWN}/domains", {}),
        ("/v1/campaigns", {}),
    ):
        async with world.http.get(path, params={"pageToken": token, **other}) as answer:
            refusal = await answer.json()
        assert (answer.status, _reason(refusal)) == (400, "INVALID_TOKEN")
    async with world.http.get(url, params={"pageToken": token, "pageSize": "10"}) as answer:
        assert (await answer.json())["domains"][0]["position"] == "10"


@pytest.mark.parametrize("action", ["start", "pause", "resume", "cancel"])
async def test_step_that_the_table_does_not_allow_changes_nothing(
    finished: Trial, action: str
) -> None:
    world = finished.world
    before = await _everything(world)

    url = f"/v1/campaigns/{finished.campaign_id}:{action}"
    async with world.http.post(url, json={}) as answer:
        refusal = await answer.json()

    assert (answer.status, refusal["code"]) == (400, 9)
    assert _reason(refusal) == "TRANSITION_NOT_ALLOWED"
    assert _info(refusal)["metadata"]["status"] == "COMPLETED"
    assert await _everything(world) == before


async def test_grpc_web_carries_calls_streams_and_refusals(finished: Trial) -> None:
    world = finished.world
    service = "/domainflow.query.v1.QueryService"

    summary = query_service_pb2.GetDomainSummaryRequest(campaign_id=finished.campaign_id)
    messages, trailers = await _grpc_web(world, f"{service}/GetDomainSummary", summary)
    (message,) = messages
    assert query_service_pb2.GetDomainSummaryResponse.FromString(message).name_count == NAMES
    assert trailers["grpc-status"] == "0"

    read = query_service_pb2.StreamDomainsRequest(
        campaign_ids=[finished.campaign_id], batch_size=500
    )
    messages, trailers = await _grpc_web(world, f"{service}/StreamDomains", read)
    answers = [query_service_pb2.StreamDomainsResponse.FromString(each) for each in messages]
    names = [name for answer in answers for name in answer.batch.names]
    assert names == list(expected_names(NAMES, finished.constant))
    assert answers[-1].summary.domain_count == NAMES
    assert trailers["grpc-status"] == "0"

    logs = stream_pb2.StreamLogsRequest(campaign_ids=[finished.campaign_id])
    messages, trailers = await _grpc_web(world, f"{service}/StreamLogs", logs)
    ended = stream_pb2.StreamLogsResponse.FromString(messages[-1]).summary
    assert ended.row_count > 0
    assert trailers["grpc-status"] == "0"

    unknown = campaign_service_pb2.GetCampaignRequest(campaign_id=UNKNOWN)
    messages, trailers = await _grpc_web(
        world, "/domainflow.campaign.v1.CampaignService/GetCampaign", unknown
    )
    assert (messages, trailers["grpc-status"]) == ([], "5")
    details = base64.b64decode(trailers["grpc-status-details-bin"] + "==")
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert info.reason == "CAMPAIGN_NOT_FOUND"


async def _grpc_web(world: World, path: str, request: Any) -> tuple[list[bytes], dict[str, str]]:
    """The messages and the trailers of one call, framed as browsers do it."""
    body = request.SerializeToString()
    async with world.http.post(
        path,
        data=struct.pack(">BI", 0, len(body)) + body,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    ) as answer:
        assert answer.status == 200
        data, headers = await answer.read(), dict(answer.headers)
    messages: list[bytes] = []
    while data:
        flags, length = struct.unpack(">BI", data[:5])
        frame, data = data[5 : 5 + length], data[5 + length :]
        if flags & 0x80:
            lines = frame.decode().strip().split("\r\n")
            return messages, dict(line.split(":", 1) for line in lines)
        messages.append(frame)
    # A refusal without any message carries its status in the headers.
    return messages, {name.lower(): value for name, value in headers.items()}


async def test_preflight_of_a_local_page_is_answered(world: World) -> None:
    headers = {
        "origin": "http://localhost:5173",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-grpc-web,x-user-agent,grpc-timeout",
    }
    path = "/domainflow.campaign.v1.CampaignService/WatchCampaigns"
    async with world.http.options(path, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"
        assert "x-grpc-web" in answer.headers["access-control-allow-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]


async def test_health_of_the_door_and_of_every_service(world: World) -> None:
    async with world.http.get("/healthz") as answer:
        assert answer.status == 200
    stub: Any = health_pb2_grpc.HealthStub(world.channel)
    for service in ("campaign", "validation", "query"):
        checked = await stub.Check(
            health_pb2.HealthCheckRequest(), metadata=[("x-domainflow-service", service)]
        )
        assert checked.status == health_pb2.HealthCheckResponse.SERVING


async def test_buf_curl_needs_no_contract_on_disk(finished: Trial) -> None:
    world = finished.world
    url = f"http://{world.suite.address}"

    listed = await _buf_curl(world, "--list-services", url)
    assert set(listed.split()) >= SERVICES

    said = await _buf_curl(
        world,
        *("-d", json.dumps({"campaignId": finished.campaign_id})),
        f"{url}/domainflow.query.v1.QueryService/GetDomainSummary",
    )
    assert json.loads(said)["nameCount"] == str(NAMES)


async def _buf_curl(world: World, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=world.folder,
    )
    said, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return said.decode()


async def _everything(world: World) -> Any:
    """What a refused call must leave as it was."""
    return await world.rows(
        """SELECT (SELECT array_agg((id, revision, update_time) ORDER BY no) FROM campaigns),
               (SELECT array_agg((campaign_no, phase, status, run)) FROM phases),
               (SELECT count(*) FROM requests), (SELECT count(*) FROM events)"""
    )


def _info(refusal: dict[str, Any]) -> dict[str, Any]:
    kinds = [detail for detail in refusal["details"] if detail["@type"].endswith("ErrorInfo")]
    assert kinds[0]["domain"] == "domainflow"
    info: dict[str, Any] = kinds[0]
    return info


def _reason(refusal: dict[str, Any]) -> str:
    return str(_info(refusal)["reason"])


def _fields(refusal: dict[str, Any]) -> set[str]:
    return {
        violation["field"]
        for detail in refusal["details"]
        if detail["@type"].endswith("BadRequest")
        for violation in detail["fieldViolations"]
    }


async def test_database_tells_of_every_process_and_of_its_calls_in_json(finished: Trial) -> None:
    world = finished.world

    async def everybody() -> None:
        async with world.http.get("/v1/database") as answer:
            assert answer.status == 200
            status = await answer.json()
        said = {pool["process"].split()[0] for pool in status["pools"]}
        services = {"campaign", "validation", "query"}
        assert services <= said
        # A worker goes by its id.
        assert len(said - services) >= WORKERS
        assert not any(pool["leaks"] for pool in status["pools"])

    async def counted() -> None:
        async with world.http.get("/v1/database/queries") as answer:
            figures = (await answer.json())["figures"]
        assert "ListDomains" in {each["method"] for each in figures}

    async with world.http.get(f"/v1/campaigns/{finished.campaign_id}/domains") as answer:
        assert answer.status == 200
    await eventually(everybody, within=30)
    await eventually(counted, within=30)
    async with world.http.get("/v1/database/recommendations") as answer:
        assert answer.status == 200
