import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.campaign.v1.event_pb2 import Bookmark, CampaignFinished, Event, SystemEvent
from services.cli.connection import connected
from services.cli.retry import Patience
from services.cli.watch import watch

CAMPAIGN = "01890000-0000-7000-8000-000000000001"
Message = campaign_service_pb2.WatchCampaignsResponse


class History(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Revisions 1 to `length` of one campaign. Each call is cut as the next of `cuts` says:
    after so many messages. `repeat` sends two events again on resuming, `forget` answers
    OUT_OF_RANGE to the first call that resumes."""

    def __init__(
        self, length: int, cuts: list[int], *, repeat: bool = False, forget: bool = False
    ) -> None:
        self.length = length
        self.cuts = cuts
        self.repeat = repeat
        self.forget = forget
        self.resumed_at: list[int | None] = []

    def WatchCampaigns(
        self, request: campaign_service_pb2.WatchCampaignsRequest, context: Any
    ) -> Iterator[Message]:
        resume = dict(request.resume_revisions).get(CAMPAIGN)
        self.resumed_at.append(resume)
        if resume is not None and self.forget:
            self.forget = False
            context.abort_with_status(rpc_status.to_status(out_of_range()))
        left = self.cuts.pop(0) if self.cuts else None
        for number, message in enumerate(self.messages(resume)):
            if number == left:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
            yield message

    def messages(self, resume: int | None) -> Iterator[Message]:
        if resume is None:
            resume = 1
            state = campaign_pb2.Campaign(campaign_id=CAMPAIGN, revision=1)
            yield Message(state=state)
            yield Message(bookmark=Bookmark(revisions={CAMPAIGN: 1}, initial_state_sent=True))
        for revision in range(max(1, resume - 1) if self.repeat else resume + 1, self.length + 1):
            finished = CampaignFinished(status=campaign_pb2.PHASE_STATUS_COMPLETED)
            event = Event(campaign_id=CAMPAIGN, revision=revision)
            if revision == self.length:
                event.campaign_finished.CopyFrom(finished)
            yield Message(event=event)


def out_of_range(campaign_id: str = CAMPAIGN) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(
            reason="REVISION_OUT_OF_RANGE",
            domain="domainflow",
            metadata={"campaign_id": campaign_id},
        )
    )
    return status_pb2.Status(code=grpc.StatusCode.OUT_OF_RANGE.value[0], details=[detail])


async def watched(address: str, **patience: float) -> list[Message]:
    async with connected(address) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        quick = Patience(shortest=0.001, longest=0.01, **patience)
        return [message async for message in watch(stub, [CAMPAIGN], quick)]


def revisions(messages: list[Message]) -> list[int]:
    return [m.event.revision for m in messages if m.HasField("event")]


async def test_cut_watch_goes_on_after_the_last_event(serve: Any) -> None:
    history = History(9, cuts=[4, 1, 0, 2])

    messages = await watched(serve(campaigns=history))

    assert revisions(messages) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert history.resumed_at == [None, 3, 4, 4, 6]


async def test_state_is_sent_once_although_the_watch_was_cut(serve: Any) -> None:
    messages = await watched(serve(campaigns=History(4, cuts=[1])))

    assert [m.WhichOneof("kind") for m in messages] == ["state", "event", "event", "event"]


async def test_event_that_comes_twice_is_shown_once(serve: Any) -> None:
    messages = await watched(serve(campaigns=History(6, cuts=[4, 2], repeat=True)))

    assert revisions(messages) == [2, 3, 4, 5, 6]


async def test_revision_that_is_gone_begins_anew_with_the_state(serve: Any) -> None:
    history = History(5, cuts=[3], forget=True)

    messages = await watched(serve(campaigns=history))

    assert history.resumed_at == [None, 2, None]
    assert [m.WhichOneof("kind") for m in messages].count("state") == 2


async def test_refusal_that_does_not_pass_is_raised_at_once(serve: Any) -> None:
    address = serve(campaigns=campaign_service_pb2_grpc.CampaignServiceServicer())

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watched(address)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_patience_ends_when_nothing_ever_comes(serve: Any) -> None:
    history = History(5, cuts=[0] * 10_000)

    with pytest.raises(grpc.aio.AioRpcError):
        await watched(serve(campaigns=history), first_limit=0.05)

    assert len(history.resumed_at) > 1


async def test_silent_stream_is_taken_up_again(serve: Any) -> None:
    class Silent(History):
        def WatchCampaigns(self, request: Any, context: Any) -> Iterator[Message]:
            if not self.resumed_at:
                self.resumed_at.append(None)
                yield from [*self.messages(None)][:3]
                gone.wait()
                return
            yield from super().WatchCampaigns(request, context)

    gone = threading.Event()
    history = Silent(5, cuts=[])
    async with connected(serve(campaigns=history)) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        quick = Patience(shortest=0.001)
        messages = [m async for m in watch(stub, [CAMPAIGN], quick, silence_limit=0.2)]
    gone.set()

    assert revisions(messages) == [2, 3, 4, 5]
    assert history.resumed_at == [None, 2]


class Suite(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Tells of the suite itself: revisions 8, 9 and 10, two of them on the first call. The second
    one, when it `forgets`, is told that its revision is not kept."""

    def __init__(self, *, forgets: bool = False) -> None:
        self.forgets = forgets
        self.resumed_at: list[int | None] = []

    def WatchCampaigns(
        self, request: campaign_service_pb2.WatchCampaignsRequest, context: Any
    ) -> Iterator[Message]:
        resumes = request.HasField("resume_system_revision")
        self.resumed_at.append(request.resume_system_revision if resumes else None)
        assert request.include_system
        if len(self.resumed_at) == 2 and self.forgets:
            context.abort_with_status(rpc_status.to_status(out_of_range("")))
        yield Message(bookmark=Bookmark(revisions={CAMPAIGN: 1}, system_revision=7))
        yield Message(system_event=SystemEvent(revision=8))
        yield Message(system_event=SystemEvent(revision=9))
        if len(self.resumed_at) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
        yield Message(system_event=SystemEvent(revision=10))


@pytest.mark.parametrize(("forgets", "resumed_at"), [(False, [None, 9]), (True, [None, 9, None])])
async def test_suites_own_events_go_on_where_they_were_cut(
    serve: Any, forgets: bool, resumed_at: list[int | None]
) -> None:
    suite = Suite(forgets=forgets)
    async with connected(serve(campaigns=suite)) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        messages = [
            message
            async for message in watch(
                stub, [CAMPAIGN], Patience(shortest=0.001), include_system=True
            )
        ]

    told = [m.system_event.revision for m in messages if m.HasField("system_event")]
    assert told == ([8, 9, 8, 9, 10] if forgets else [8, 9, 10])
    assert suite.resumed_at == resumed_at
