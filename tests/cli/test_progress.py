import io
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, event_pb2
from domainflow.campaign.v1 import event_pb2 as pb
from domainflow.campaign.v1.event_pb2 import Event
from domainflow.validation.v1 import proxy_pb2, resolver_pb2
from services.cli.progress import Display, Picture, Tally, plain, waiting_text
from services.cli.refusal import Refusal
from services.cli.terminal import span

Message = campaign_service_pb2.WatchCampaignsResponse


def progress(settled: int, **more: Any) -> Message:
    return Message(
        progress=event_pb2.Progress(
            phase=campaign_pb2.PHASE_DNS_VALIDATION,
            status=campaign_pb2.PHASE_STATUS_RUNNING,
            name_count=100_000,
            settled_count=settled,
            names_per_second=9_500.4,
            remaining=Duration(seconds=9),
            **more,
        )
    )


def changed(status: "campaign_pb2.PhaseStatus.ValueType", reason: str = "") -> Message:
    return Message(
        event=event_pb2.Event(
            phase_changed=event_pb2.PhaseChanged(
                phase=campaign_pb2.PHASE_DNS_VALIDATION, to_status=status, reason=reason
            )
        )
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_line_tells_phase_counts_rate_time_left_and_outcomes() -> None:
    picture = Picture()
    outcomes = [
        campaign_pb2.OutcomeCount(outcome="NXDOMAIN", count=5_000),
        campaign_pb2.OutcomeCount(outcome="RESOLVED", count=7_000),
    ]

    picture.take(progress(12_000, outcomes=outcomes), now=0.0)

    assert plain(picture, now=0.0) == (
        "DNS validation  12,000 of 100,000  9,500/s  0:09 left  RESOLVED 7,000, NXDOMAIN 5,000"
    )


def test_time_left_counts_down_between_messages() -> None:
    picture = Picture()

    picture.take(progress(12_000), now=10.0)

    assert [picture.remaining_at(now) for now in (10.0, 14.0, 30.0)] == [9.0, 5.0, 0.0]


def test_chunks_settled_since_the_last_progress_come_on_top() -> None:
    picture = Picture()
    picture.take(
        progress(7, revision=5, outcomes=[campaign_pb2.OutcomeCount(outcome="RESOLVED", count=7)]),
        now=0.0,
    )

    for revision in (4, 5, 6):
        chunk = event_pb2.ChunkSettled(
            phase=campaign_pb2.PHASE_DNS_VALIDATION,
            name_count=3,
            outcomes=[campaign_pb2.OutcomeCount(outcome="NXDOMAIN", count=3)],
        )
        picture.take(
            Message(event=event_pb2.Event(revision=revision, chunk_settled=chunk)), now=0.0
        )

    assert picture.settled_count == 10
    assert picture.outcomes == {"RESOLVED": 7, "NXDOMAIN": 3}


def test_line_tells_what_the_phase_waits_for_and_what_the_workers_take() -> None:
    picture = Picture()
    waiting = event_pb2.WaitingFor(
        endpoint="192.0.2.1:53",
        endpoint_latency=Duration(nanos=120_000_000),
        endpoint_loss=0.02,
        oldest_first_position=4_000,
        oldest_age=Duration(seconds=42),
        oldest_worker="w1",
        delayed_chunk_count=1,
    )

    picture.take(progress(12_000, waiting_for=waiting, worker_memory_bytes=157 * 2**20), now=0.0)

    assert plain(picture, now=0.0) == (
        "DNS validation  12,000 of 100,000  9,500/s  0:09 left"
        "  slowest 192.0.2.1:53, 120 ms, 2% lost;"
        " chunk at 4,000 for 0:42 with w1; 1 chunk to be tried again later; workers take 157 MB"
    )

    picture.take(changed(campaign_pb2.PHASE_STATUS_PAUSED), now=0.0)
    assert "slowest" not in plain(picture, now=0.0)


def test_a_chunk_that_is_young_is_not_worth_a_word() -> None:
    waiting = event_pb2.WaitingFor(oldest_first_position=4_000, oldest_age=Duration(seconds=2))

    assert waiting_text(waiting) == ""


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Event(campaign_updated=pb.CampaignUpdated(fields=["priority"], reason="urgent")),
            "changed: priority (urgent)",
        ),
        (
            Event(chunk_size_decided=pb.ChunkSizeDecided(chunk_size=500, reason="loss 9%")),
            "chunks of 500 names: loss 9%",
        ),
        (
            Event(chunk_split=pb.ChunkSplit(first_position=100, name_count=50, cause="killed")),
            "chunk at 100, 50 names, is split in two: killed",
        ),
        (
            Event(name_dead_lettered=pb.NameDeadLettered(name="a.com", cause="killed")),
            "gave a.com up: killed",
        ),
        (
            Event(
                dead_letters_resolved=pb.DeadLettersResolved(
                    state=campaign_pb2.DEAD_LETTER_STATE_REDRIVEN, count=1
                )
            ),
            "1 dead letter redriven",
        ),
        (
            Event(
                verdicts_withdrawn=pb.VerdictsWithdrawn(
                    name_count=2000, resolver="192.0.2.1:53", reason="it lies"
                )
            ),
            "2,000 verdicts of 192.0.2.1:53 taken back: it lies",
        ),
        (Event(deletion_started=pb.DeletionStarted()), "deletion began"),
        (Event(), ""),
    ],
)
def test_events_are_told_in_words(event: Event, line: str) -> None:
    assert Picture().take(Message(event=event), now=0.0) == line


def test_a_decision_on_a_pool_is_told_in_words() -> None:
    decided = pb.PoolDecided(
        pool="dns", host="here", process_count=3, task_limit=8, reason="40 s of work wait"
    )
    message = Message(system_event=pb.SystemEvent(pool_decided=decided))

    line = Picture().take(message, now=0.0)

    assert line == "dns workers on here: 3 processes of 8 chunks: 40 s of work wait"
    assert Picture().take(Message(system_event=pb.SystemEvent()), now=0.0) == ""


def test_a_quarantine_is_told_in_words() -> None:
    changed = pb.ResolverChanged(
        resolver="192.0.2.1:53",
        host="here",
        state=resolver_pb2.RESOLVER_STATE_QUARANTINED,
        reason="it lies",
    )
    message = Message(system_event=pb.SystemEvent(resolver_changed=changed))

    line = Picture().take(message, now=0.0)

    assert line == "resolver 192.0.2.1:53 is quarantined on here: it lies"


def test_a_proxy_that_is_taken_out_is_told_in_words() -> None:
    changed = pb.ProxyChanged(
        proxy="http://192.0.2.1:3128",
        worker_id="w1",
        from_health=proxy_pb2.PROXY_HEALTH_UP,
        to_health=proxy_pb2.PROXY_HEALTH_DOWN,
        reason="the proxy: connection refused",
    )
    message = Message(system_event=pb.SystemEvent(proxy_changed=changed))

    line = Picture().take(message, now=0.0)

    assert line == "proxy http://192.0.2.1:3128 is down for w1: the proxy: connection refused"


def test_verdicts_taken_back_are_not_counted_any_more() -> None:
    picture = Picture()
    resolved = campaign_pb2.OutcomeCount(outcome="RESOLVED", count=7_000)
    absent = campaign_pb2.OutcomeCount(outcome="NXDOMAIN", count=5_000)
    picture.take(progress(12_000, outcomes=[resolved, absent], run=1, revision=5), now=0.0)
    withdrawn = pb.VerdictsWithdrawn(
        phase=campaign_pb2.PHASE_DNS_VALIDATION, run=1, name_count=7_000, outcomes=[resolved]
    )

    # Progress has counted it already.
    picture.take(Message(event=Event(revision=5, verdicts_withdrawn=withdrawn)), now=1.0)
    assert picture.settled_count == 12_000
    picture.take(Message(event=Event(revision=6, verdicts_withdrawn=withdrawn)), now=1.0)

    assert picture.settled_count == 5_000
    assert picture.outcomes == {"NXDOMAIN": 5_000}


def test_a_deletion_is_told_as_it_goes() -> None:
    picture = Picture()
    picture.take(progress(12_000), now=0.0)

    picture.take(Message(deletion=pb.DeletionProgress(row_count=100, deleted_count=40)), now=0.0)

    assert plain(picture, now=0.0).startswith("being deleted  40 of 100 rows")
    assert picture.take(Message(deletion=pb.DeletionProgress(finished=True)), now=0.0) == "deleted"


def test_next_phase_begins_at_zero() -> None:
    picture = Picture(
        phase=campaign_pb2.PHASE_DOMAIN_GENERATION, settled_count=7, outcomes={"GENERATED": 7}
    )

    note = picture.take(changed(campaign_pb2.PHASE_STATUS_RUNNING), now=0.0)

    assert note == "DNS validation: running"
    assert plain(picture, now=0.0) == "DNS validation  0"


def test_another_run_begins_at_zero() -> None:
    picture = Picture()
    picture.take(progress(100_000, run=1), now=0.0)

    event = event_pb2.PhaseChanged(
        phase=campaign_pb2.PHASE_DNS_VALIDATION,
        to_status=campaign_pb2.PHASE_STATUS_RUNNING,
        run=2,
    )
    picture.take(Message(event=Event(phase_changed=event)), now=1.0)

    assert (picture.name_count, picture.settled_count, picture.total) == (0, 0, None)


def test_a_phase_that_is_prepared_meanwhile_takes_nobodys_place() -> None:
    picture = Picture()
    picture.take(progress(7), now=0.0)

    event = event_pb2.PhaseChanged(
        phase=campaign_pb2.PHASE_HTTP_VALIDATION, to_status=campaign_pb2.PHASE_STATUS_SKIPPED
    )
    line = picture.take(Message(event=Event(phase_changed=event)), now=1.0)

    assert line == "HTTP validation: skipped"
    assert plain(picture, now=1.0).startswith("DNS validation  7 of 100,000")


def test_an_upload_that_is_open_has_no_total() -> None:
    picture = Picture()
    uploading = event_pb2.Progress(
        phase=campaign_pb2.PHASE_DOMAIN_GENERATION,
        status=campaign_pb2.PHASE_STATUS_RUNNING,
        name_count=5_000,
        settled_count=5_000,
        names_per_second=1_000,
    )

    picture.take(Message(progress=uploading), now=0.0)
    assert plain(picture, now=0.0) == "domain generation  5,000  1,000/s"

    # The last names of a list that is complete are settled: nothing is left.
    uploading.remaining.SetInParent()
    picture.take(Message(progress=uploading), now=0.0)
    assert plain(picture, now=0.0) == "domain generation  5,000 of 5,000  1,000/s  0:00 left"


def test_of_a_campaign_that_is_gone_nothing_more_is_said() -> None:
    written = io.StringIO()
    with Display(Console(file=written, force_terminal=False, width=200)) as display:
        display.take(progress(7))
        gone = event_pb2.DeletionProgress(row_count=5, deleted_count=5, finished=True)
        display.take(Message(deletion=gone))

    assert written.getvalue() == "deleted\n"


def test_names_that_the_pattern_did_not_have_are_told_by_state_and_event() -> None:
    phase = campaign_pb2.PhaseState(
        phase=campaign_pb2.PHASE_DOMAIN_GENERATION, name_count=1, missing_count=4_000
    )
    reserved = event_pb2.NamesReserved(name_count=1, missing_count=4_000)
    enough = event_pb2.NamesReserved(name_count=1)

    notes = [
        Picture().take(Message(state=campaign_pb2.Campaign(phases=[phase])), now=0.0),
        Picture().take(Message(event=event_pb2.Event(names_reserved=reserved)), now=0.0),
        Picture().take(Message(event=event_pb2.Event(names_reserved=enough)), now=0.0),
    ]

    assert notes == ["the pattern has no more names: 4,000 fewer than asked for"] * 2 + [""]


def test_failed_phase_keeps_its_cause() -> None:
    picture = Picture()

    picture.take(changed(campaign_pb2.PHASE_STATUS_FAILED, "every resolver is mute"), now=0.0)

    assert picture.failure == "every resolver is mute"


def test_without_a_terminal_lines_come_at_intervals_only() -> None:
    out, clock = io.StringIO(), Clock()

    with Display(Console(file=out, width=200), interval=5.0, clock=clock) as display:
        for settled in range(0, 100_000, 10_000):
            display.take(progress(settled))
            clock.now += 1.0

    lines = out.getvalue().splitlines()
    assert [line.split("  ")[1].split()[0] for line in lines] == ["50,000", "90,000"]
    assert "\x1b" not in out.getvalue()


def test_lost_connection_is_said_once() -> None:
    out = io.StringIO()

    with Display(Console(file=out), clock=Clock()) as display:
        for _ in range(5):
            display.trouble("connection lost")

    assert out.getvalue() == "connection lost\n"


def test_terminal_gets_a_moving_line() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)

    with Display(console, clock=Clock()) as display:
        display.take(progress(12_000))

    assert "\x1b[" in out.getvalue()
    assert "12,000 of 100,000" in out.getvalue()


def test_tally_without_a_terminal_says_counts_and_trouble() -> None:
    out, clock = io.StringIO(), Clock()

    with Tally(Console(file=out), "rows", interval=5.0, clock=clock) as tally:
        for count in range(0, 10_000, 1_000):
            tally.move(count=count)
            clock.now += 1.0
        tally.trouble(Refusal(grpc.StatusCode.UNAVAILABLE, "the door is closing"))

    assert out.getvalue().splitlines() == [
        "5,000 rows",
        "connection lost (the door is closing), trying again",
    ]


def test_span_reads_as_a_clock() -> None:
    assert [span(seconds) for seconds in (-1, 7.4, 754, 11_045)] == [
        "0:00",
        "0:07",
        "12:34",
        "3:04:05",
    ]
