"""Every kind of request through the real door, to small real gRPC servers behind it."""

import asyncio
import io
import json
import operator
import re
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc, summary_pb2
from domainflow.validation.v1 import (
    keyword_pb2,
    scoring_pb2,
    validation_service_pb2,
    validation_service_pb2_grpc,
)
from services.suite.envoy import MAX_REQUEST_BYTES, EmbeddedEnvoy, Upstreams
from tests.eventually import eventually

SERVICES = (
    "domainflow.campaign.v1.CampaignService",
    "domainflow.query.v1.QueryService",
    "domainflow.validation.v1.ValidationService",
)
KNOWN = "0190a000-0000-7000-8000-000000000001"
QUERIES = query_service_pb2.DESCRIPTOR.services_by_name["QueryService"].methods
CHECKS = validation_service_pb2.DESCRIPTOR.services_by_name["ValidationService"].methods


class CampaignService(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Knows one campaign; its first reads and writes fail when told so."""

    def __init__(self) -> None:
        self.failures_left = 0
        self.attempts = 0

    async def GetCampaign(self, request, context):
        await self._maybe_fail(context)
        if request.campaign_id != KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such campaign")
        campaign = campaign_pb2.Campaign(campaign_id=KNOWN)
        return campaign_service_pb2.GetCampaignResponse(campaign=campaign)

    async def ListCampaigns(self, request, context):
        token = f"size {request.page_size}"
        return campaign_service_pb2.ListCampaignsResponse(next_page_token=token)

    async def CreateCampaign(self, request, context):
        await self._maybe_fail(context)
        campaign = campaign_pb2.Campaign(campaign_id=KNOWN, name=request.name)
        return campaign_service_pb2.CreateCampaignResponse(campaign=campaign)

    async def UploadNames(self, requests, context):
        count = 0
        async for request in requests:
            count += len(request.lines)
        upload = campaign_service_pb2.Upload(accepted_count=count)
        return campaign_service_pb2.UploadNamesResponse(upload=upload)

    async def _maybe_fail(self, context):
        self.attempts += 1
        if self.failures_left > 0:
            self.failures_left -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")


class QueryService(query_service_pb2_grpc.QueryServiceServicer):
    """Streams batches; `go_on` holds back all but the first, `endless` never ends.

    Answers whatever else it is asked with an empty message; the methods in `held` wait for `go_on`.
    Remembers how long it may take.
    """

    def __init__(self) -> None:
        self.remaining: dict[str, float] = {}
        self.held: set[str] = set()
        self.go_on = asyncio.Event()
        self.endless = False
        self.sent = 0

    async def stalled(self) -> None:
        """Return when no stream has been able to send for a while."""
        before = -1
        while before != self.sent:
            before = self.sent
            await asyncio.sleep(0.3)

    async def counts(self) -> None:
        """Raise unless it was asked to check counters."""
        assert "CheckCounters" in self.remaining

    async def GetDomainSummary(self, request, context):
        self.remaining["GetDomainSummary"] = context.time_remaining()
        return query_service_pb2.GetDomainSummaryResponse(name_count=1000)

    async def StreamDomains(self, request, context):
        self.remaining["StreamDomains"] = context.time_remaining()
        batch = query_service_pb2.DomainBatch(names=["a.example"] * 1000, domain_count=1000)
        yield query_service_pb2.StreamDomainsResponse(batch=batch)
        batch = query_service_pb2.DomainBatch(names=["n" * 100] * 2000)
        while self.endless:
            yield query_service_pb2.StreamDomainsResponse(batch=batch)
            self.sent += 1
        await self.go_on.wait()
        summary = query_service_pb2.StreamSummary(domain_count=1000)
        yield query_service_pb2.StreamDomainsResponse(summary=summary)


def _with_nothing(method):
    empty = message_factory.GetMessageClass(method.output_type)()

    async def call(self, request, context):
        self.remaining[method.name] = context.time_remaining()
        if method.name in self.held:
            await self.go_on.wait()
        return empty

    async def stream(self, request, context):
        yield await call(self, request, context)

    return stream if method.server_streaming else call


for each in QUERIES:
    if each.name not in vars(QueryService):
        setattr(QueryService, each.name, _with_nothing(each))


class ValidationService(validation_service_pb2_grpc.ValidationServiceServicer):
    """Answers with nothing; counts the names of streams and remembers how long they may last, and
    what each other call asked for."""

    def __init__(self) -> None:
        self.remaining = 0.0
        self.asked: dict[str, Message] = {}

    async def GetScoringProfile(self, request, context):
        self.asked["GetScoringProfile"] = request
        profile = scoring_pb2.ScoringProfile(version=request.version)
        return scoring_pb2.GetScoringProfileResponse(scoring_profile=profile)

    async def ValidateDomains(self, requests, context):
        self.remaining = context.time_remaining()
        count = 0
        async for request in requests:
            count += len(request.batch.names)
            summary = validation_service_pb2.ValidateSummary(name_count=count)
            yield validation_service_pb2.ValidateDomainsResponse(summary=summary)


def _remembering(method):
    empty = message_factory.GetMessageClass(method.output_type)()

    async def call(self, request, context):
        self.asked[method.name] = request
        return empty

    return call


for each in CHECKS:
    if each.name not in vars(ValidationService):
        setattr(ValidationService, each.name, _remembering(each))


@dataclass
class Door:
    """Envoy and what stands behind it."""

    envoy: EmbeddedEnvoy
    campaign: CampaignService
    query: QueryService
    validation: ValidationService
    servers: dict[str, grpc.aio.Server] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return f"http://{self.envoy.address}{path}"


async def _serve(add, servicer) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 5000)])
    add(servicer, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*SERVICES, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


class ImpatientEnvoy(EmbeddedEnvoy):
    """Ends what is silent after a second where the template says a minute."""

    def render(self, template: str) -> str:
        assert "stream_idle_timeout: 60s" in template
        return super().render(
            template.replace("stream_idle_timeout: 60s", "stream_idle_timeout: 1s")
        )


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path, EmbeddedEnvoy) as door:
        yield door


@asynccontextmanager
async def opened(folder: Path, envoy_type: type[EmbeddedEnvoy]) -> AsyncIterator[Door]:
    servicers = {
        "campaign": (
            campaign_service_pb2_grpc.add_CampaignServiceServicer_to_server,
            CampaignService(),
        ),
        "validation": (
            validation_service_pb2_grpc.add_ValidationServiceServicer_to_server,
            ValidationService(),
        ),
        "query": (query_service_pb2_grpc.add_QueryServiceServicer_to_server, QueryService()),
    }
    async with AsyncExitStack() as stack:
        servers, addresses = {}, {}
        for name, (add, servicer) in servicers.items():
            servers[name], addresses[name] = await _serve(add, servicer)
            stack.push_async_callback(servers[name].stop, 0)
        envoy = envoy_type(folder, Upstreams(**addresses))
        await stack.enter_async_context(envoy)
        yield Door(envoy, **{name: each for name, (_, each) in servicers.items()}, servers=servers)


@pytest.fixture
async def http(door: Door) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{door.envoy.address}") as session:
        yield session


@pytest.fixture
async def channel(door: Door) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(door.envoy.address) as channel:
        yield channel


def _campaigns(channel: grpc.aio.Channel) -> campaign_service_pb2_grpc.CampaignServiceStub:
    return campaign_service_pb2_grpc.CampaignServiceStub(channel)


async def test_grpc_call_reaches_its_service(channel: grpc.aio.Channel) -> None:
    request = campaign_service_pb2.GetCampaignRequest(campaign_id=KNOWN)

    answer = await _campaigns(channel).GetCampaign(request)

    assert answer.campaign.campaign_id == KNOWN


async def test_json_call_reaches_its_service(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/campaigns", params={"pageSize": "7"}) as answer:
        assert await answer.json() == {"campaigns": [], "nextPageToken": "size 7"}

    async with http.get("/v1/workers") as answer:
        assert answer.status == 200


async def test_grpc_web_call_reaches_its_service(http: aiohttp.ClientSession) -> None:
    message = campaign_service_pb2.GetCampaignRequest(campaign_id=KNOWN).SerializeToString()

    async with http.post(
        "/domainflow.campaign.v1.CampaignService/GetCampaign",
        data=struct.pack(">BI", 0, len(message)) + message,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    ) as answer:
        body = await answer.read()

    flag, length = struct.unpack(">BI", body[:5])
    reply = campaign_service_pb2.GetCampaignResponse.FromString(body[5 : 5 + length])
    assert (flag, reply.campaign.campaign_id) == (0, KNOWN)
    assert b"grpc-status:0" in body[5 + length :]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/campaigns/0190a000-0000-7000-8000-00000000dead", 404, 5),
        ("/v1/nothing", 404, 5),
        ("/nothing", 404, 5),
        ("/v1/campaigns?pageSzie=7", 400, 3),
        ("/v1/campaigns?pageSize=many", 400, 3),
    ],
    ids=["service's error", "unknown path", "no api path", "unknown argument", "bad argument"],
)
async def test_json_caller_gets_errors_as_json(
    http: aiohttp.ClientSession, path: str, status: int, code: int
) -> None:
    async with http.get(path) as answer:
        error = await answer.json()

        assert (answer.status, error["code"]) == (status, code)
        assert error["message"]


async def test_request_body_over_the_limit_is_refused(http: aiohttp.ClientSession) -> None:
    body = json.dumps({"name": "x" * MAX_REQUEST_BYTES}).encode()

    async with http.post("/v1/campaigns", data=io.BytesIO(body)) as answer:
        assert (answer.status, (await answer.json())["code"]) == (413, 3)


async def test_request_body_just_below_the_limit_passes(http: aiohttp.ClientSession) -> None:
    name = "x" * (MAX_REQUEST_BYTES - 100)

    body = json.dumps({"name": name}).encode()
    async with http.post("/v1/campaigns", data=io.BytesIO(body)) as answer:
        assert len((await answer.json())["campaign"]["name"]) == len(name)


async def test_upload_over_the_limit_of_calls_passes(channel: grpc.aio.Channel) -> None:
    async def messages() -> AsyncIterator[campaign_service_pb2.UploadNamesRequest]:
        for _ in range(3 * MAX_REQUEST_BYTES // 1_000_000):
            yield campaign_service_pb2.UploadNamesRequest(lines=["n" * 99] * 10_000)

    answer = await _campaigns(channel).UploadNames(messages())

    assert answer.upload.accepted_count == 120_000


async def test_stream_of_names_ends_neither_by_time_nor_by_size(
    door: Door, channel: grpc.aio.Channel
) -> None:
    batch = validation_service_pb2.NameBatch(names=["n" * 250] * 1000)
    request = validation_service_pb2.ValidateDomainsRequest(batch=batch)
    count = 2 * MAX_REQUEST_BYTES // 250_000
    hour = 3600

    async def messages() -> AsyncIterator[validation_service_pb2.ValidateDomainsRequest]:
        for _ in range(count):
            yield request

    stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
    answers = [answer async for answer in stub.ValidateDomains(messages(), timeout=hour)]

    assert [answer.summary.name_count for answer in answers] == [
        1000 * number for number in range(1, count + 1)
    ]
    # What one call may take at most is 30 s, whatever its caller says.
    assert door.validation.remaining > hour / 2


async def test_only_streams_and_counting_may_last_longer_than_a_call(
    door: Door, channel: grpc.aio.Channel
) -> None:
    stub = query_service_pb2_grpc.QueryServiceStub(channel)
    door.query.go_on.set()
    hour = 3600
    for method in QUERIES:
        request = message_factory.GetMessageClass(method.input_type)()
        call = getattr(stub, method.name)(request, timeout=hour)
        if method.server_streaming:
            assert [message async for message in call]
        else:
            await call

    longer = {name for name, seconds in door.query.remaining.items() if seconds > 31}
    assert longer == {m.name for m in QUERIES if m.server_streaming} | {"CheckCounters"}
    assert all(door.query.remaining[m.name] > hour / 2 for m in QUERIES if m.server_streaming)


async def test_counting_may_be_silent_for_longer_than_a_call(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, ImpatientEnvoy) as door,
        grpc.aio.insecure_channel(door.envoy.address) as channel,
        aiohttp.ClientSession(door.url("")) as http,
    ):
        door.query.held = {"CheckCounters", "GetFunnel"}
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        counting = stub.CheckCounters(summary_pb2.CheckCountersRequest())
        await eventually(door.query.counts)
        door.query.remaining.clear()
        counting_in_json = asyncio.create_task(
            _answered(http, f"/v1/campaigns/{KNOWN}/counters:check")
        )
        await eventually(door.query.counts)

        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetFunnel(summary_pb2.GetFunnelRequest())

        door.query.go_on.set()
        assert await counting == summary_pb2.CheckCountersResponse()
        assert await counting_in_json == 200


async def _answered(http: aiohttp.ClientSession, path: str) -> int:
    async with http.get(path) as answer:
        return answer.status


async def test_every_query_has_its_path_in_json(door: Door, http: aiohttp.ClientSession) -> None:
    door.query.go_on.set()
    for method in QUERIES:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            path = getattr(binding, verb).format(campaign_id=KNOWN, position=7)
            body = {} if binding.body else None
            async with http.request(verb, path, json=body) as answer:
                assert answer.status == 200, (method.name, path, await answer.text())
                lines = [json.loads(line) async for line in answer.content]
            assert lines
    assert set(door.query.remaining) == {method.name for method in QUERIES}


async def test_every_check_has_its_path_in_json(door: Door, http: aiohttp.ClientSession) -> None:
    calls = [method for method in CHECKS if not method.client_streaming]
    for method in calls:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        template = getattr(rule, verb)
        path = re.sub(r"\{[a-z_.]*position\}", "7", template)
        path = re.sub(r"\{[a-z_.]+\}", KNOWN, path)
        async with http.request(verb, path, json={} if rule.body else None) as answer:
            assert answer.status == 200, (method.name, path, await answer.text())
            await answer.json()
        # What the path names has arrived.
        for named in re.findall(r"\{([a-z_.]+)\}", template):
            found = operator.attrgetter(named)(door.validation.asked[method.name])
            assert found == (7 if named == "position" else KNOWN), (method.name, named)
    assert set(door.validation.asked) == {method.name for method in calls}


async def test_document_of_three_megabytes_passes_and_numbers_of_64_bits_are_texts(
    door: Door, http: aiohttp.ClientSession
) -> None:
    document = "x" * (3 << 20)
    body = io.BytesIO(json.dumps({"document": document}).encode())
    async with http.post("/v1/keyword-sets:import", data=body) as answer:
        assert answer.status == 200, await answer.text()
    asked = door.validation.asked["ImportKeywordSets"]
    assert asked == keyword_pb2.ImportKeywordSetsRequest(document=document)

    large = 2**53 + 1
    path = f"/v1/scoring-profiles/{KNOWN}?version={large}"
    async with http.get(path) as answer:
        assert (await answer.json())["scoringProfile"]["version"] == str(large)
    asked = door.validation.asked["GetScoringProfile"]
    assert asked == scoring_pb2.GetScoringProfileRequest(scoring_profile_id=KNOWN, version=large)


async def test_json_stream_sends_each_message_as_a_line_at_once(
    door: Door, http: aiohttp.ClientSession
) -> None:
    async with http.get("/v1/domains:stream", params={"campaignIds": KNOWN}) as answer:
        reader = answer.content
        first = json.loads(await reader.readuntil(b"\n"))
        door.query.go_on.set()
        rest = [json.loads(line) async for line in reader]

    assert first["batch"]["domainCount"] == 1000
    assert rest == [{"summary": {"domainCount": "1000", "unreachable": []}}]


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_compressed_stream_is_not_held_back(
    door: Door, http: aiohttp.ClientSession, coding: str
) -> None:
    async with http.get(
        "/v1/domains:stream",
        params={"campaignIds": KNOWN},
        headers={"accept-encoding": coding},
        auto_decompress=False,
    ) as answer:
        first = await answer.content.readany()
        door.query.go_on.set()
        rest = await answer.content.read()

    assert answer.headers["content-encoding"] == coding
    assert 0 < len(first) < 5000
    assert rest


async def test_stalled_readers_stop_no_call_to_the_same_server(
    door: Door, channel: grpc.aio.Channel
) -> None:
    door.query.endless = True
    async with AsyncExitStack() as stack:
        for _ in range(30):
            reader_channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    door.envoy.address, options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            stub = query_service_pb2_grpc.QueryServiceStub(reader_channel)
            stream = stub.StreamDomains(query_service_pb2.StreamDomainsRequest())
            await stream.read()
            stack.callback(stream.cancel)

        await door.query.stalled()
        query = query_service_pb2_grpc.QueryServiceStub(channel)
        request = query_service_pb2.GetDomainSummaryRequest(campaign_id=KNOWN)
        calls = [query.GetDomainSummary(request, timeout=5) for _ in range(40)]
        answers = [await call for call in calls]

    assert [answer.name_count for answer in answers] == [1000] * 40


async def test_failed_read_is_tried_again(door: Door, channel: grpc.aio.Channel) -> None:
    door.campaign.failures_left = 1
    request = campaign_service_pb2.GetCampaignRequest(campaign_id=KNOWN)

    await _campaigns(channel).GetCampaign(request)

    assert door.campaign.attempts == 2


async def test_failed_write_is_left_to_its_caller(door: Door, channel: grpc.aio.Channel) -> None:
    door.campaign.failures_left = 1
    request = campaign_service_pb2.CreateCampaignRequest(name="once")

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await _campaigns(channel).CreateCampaign(request)

    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert door.campaign.attempts == 1


async def test_service_that_is_gone_is_unavailable_in_every_protocol(
    door: Door, http: aiohttp.ClientSession, channel: grpc.aio.Channel
) -> None:
    await door.servers["campaign"].stop(0)

    async with http.get(f"/v1/campaigns/{KNOWN}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, 14)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await _campaigns(channel).ListCampaigns(campaign_service_pb2.ListCampaignsRequest())
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "{" not in (failure.value.details() or "")


async def test_door_is_healthy_when_every_service_is(http: aiohttp.ClientSession) -> None:
    async with http.get("/healthz") as answer:
        assert answer.status == 200


async def test_reflection_through_the_door_lists_every_service(channel: grpc.aio.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async with aclosing(aiter(stub.ServerReflectionInfo(iter([request])))) as answers:
        answer = await anext(answers)

    assert set(SERVICES) <= {service.name for service in answer.list_services_response.service}


@pytest.mark.parametrize("service", ["campaign", "query", "validation"])
async def test_health_of_each_service_can_be_asked(
    door: Door, channel: grpc.aio.Channel, service: str
) -> None:
    for name, server in door.servers.items():
        if name != service:
            await server.stop(0)

    answer = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), metadata=[("x-domainflow-service", service)]
    )

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:5173", True),
        ("http://127.0.0.1:8080", True),
        ("https://localhost.evil.example", False),
        ("https://evil.example", False),
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/campaigns", "/domainflow.query.v1.QueryService/StreamDomains"]
)
async def test_browsers_may_call_from_local_pages_only(
    http: aiohttp.ClientSession, origin: str, allowed: bool, path: str
) -> None:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-grpc-web",
    }

    async with http.options(path, headers=headers) as answer:
        assert ("access-control-allow-origin" in answer.headers) is allowed


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_local_pages_may_use_every_method_of_the_contract(
    http: aiohttp.ClientSession, method: str
) -> None:
    headers = {"origin": "http://localhost:5173", "access-control-request-method": method}

    async with http.options("/v1/dns-personas/x", headers=headers) as answer:
        allowed = answer.headers["access-control-allow-methods"]

    assert method in allowed.split(", ")


async def test_error_of_the_door_can_be_read_by_a_local_page(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/nothing", headers={"origin": "http://localhost:5173"}) as answer:
        assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"


async def test_door_starts_without_complaints(door: Door, tmp_path: Path) -> None:
    log = (tmp_path / "envoy.log").read_text()

    assert "warning" not in log
    assert "deprecated" not in log.lower()


async def test_doors_that_start_at_once_share_no_port(data_folder: Path) -> None:
    nobody = Upstreams("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1")
    doors = [EmbeddedEnvoy(data_folder / name, nobody) for name in ("one", "other")]
    async with AsyncExitStack() as stack:
        for door in doors:
            stack.push_async_callback(door.stop)

        # Both look at the same port before one of them listens there.
        await asyncio.gather(*(door.start() for door in doors))

        assert doors[0].port != doors[1].port
