"""Names that were given up: found, handed out again, or left at that."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.campaign import Action
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaigns import DNS, act, history, validating
from tests.refusals import refused

RESOLVED, DEAD = 1, 11
NAMES = [f"name{i}.com" for i in range(6)]
PHASE = pb.PHASE_DNS_VALIDATION


async def settled_with(
    store: Store, pool: Pool, dead: Sequence[int], *, complete: bool = True
) -> RunningPhase:
    """A campaign whose names at `dead` were given up, as workers do it, and the others resolved."""
    running = await validating(store, NAMES, chunk_size=1)
    no = running.campaign_no
    async with pool.acquire() as connection, connection.transaction():
        for position, name in enumerate(NAMES):
            verdict = DEAD if position in dead else RESOLVED
            counts = [int(number == verdict) for number in range(1, 12)]
            await connection.execute(
                "SELECT claim_chunk($1, 2::smallint, 1, $2, 'w', '15 s')", no, position
            )
            settled = await connection.fetch(
                "SELECT * FROM settle_chunk($1, 2::smallint, 1, $2, 1, $3, $4)",
                no,
                position,
                counts,
                b"x" * 32,
            )
            assert settled
            await connection.execute(
                """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode,
                       attempt_count, tcp, duration_us, check_time_us)
                   VALUES ($1, 1, $2, $3, -1, 1, false, 0, 0)""",
                no,
                position,
                verdict,
            )
            if verdict == DEAD:
                await connection.execute(
                    """INSERT INTO dead_letters (campaign_no, phase, run, position, name, cause,
                           failure_count)
                       VALUES ($1, 2, 1, $2, $3, 'ended by SIGSEGV', 9)""",
                    no,
                    position,
                    name,
                )
    if complete:
        assert await store.ledger.complete(running)
    return running


def redrive(running: RunningPhase, *positions: int, **more: str) -> rpc.RedriveDeadLettersRequest:
    return rpc.RedriveDeadLettersRequest(
        campaign_id=str(running.campaign_id), phase=PHASE, positions=positions, **more
    )


async def test_letters_tell_what_was_given_up_and_why(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1, 4])

    listed = (await campaigns.ListDeadLetters(rpc.ListDeadLettersRequest())).dead_letters
    one = await campaigns.GetDeadLetter(
        rpc.GetDeadLetterRequest(campaign_id=str(running.campaign_id), phase=PHASE, position=4)
    )

    assert [letter.position for letter in listed] == [1, 4]
    assert one.dead_letter == listed[1]
    letter = one.dead_letter
    assert (letter.name, letter.cause, letter.failure_count, letter.run) == (
        "name4.com",
        "ended by SIGSEGV",
        9,
        1,
    )
    assert letter.state == pb.DEAD_LETTER_STATE_OPEN
    assert not letter.HasField("resolve_time")


async def test_the_receipt_counts_letters_and_balances(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1, 4])

    request = rpc.GetReceiptRequest(campaign_id=str(running.campaign_id))
    receipt = (await campaigns.GetReceipt(request)).receipt

    dns = receipt.phases[1]
    assert {o.outcome: o.count for o in dns.outcomes} == {"RESOLVED": 4, "DEAD_LETTER": 2}
    assert dns.dead_letter_count == 2
    assert receipt.balanced


async def test_every_letter_is_listed_once_whatever_the_page_size(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    older = await settled_with(store, pool, [0, 1, 2])
    newer = await settled_with(store, pool, [2, 5])

    places = []
    request = rpc.ListDeadLettersRequest(page_size=2)
    while True:
        page = await campaigns.ListDeadLetters(request)
        places += [(letter.campaign_id, letter.position) for letter in page.dead_letters]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    new, old = str(newer.campaign_id), str(older.campaign_id)
    assert places == [(new, 2), (new, 5), (old, 0), (old, 1), (old, 2)]
    request.state = pb.DEAD_LETTER_STATE_OPEN
    refusal = await refused(campaigns.ListDeadLetters(request))
    assert refusal.reason == "INVALID_TOKEN"


async def test_a_redriven_letter_opens_its_completed_phase_in_the_same_run(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1, 4])

    answer = await campaigns.RedriveDeadLetters(redrive(running, 4, reason="fixed"))

    assert answer.count == 1
    campaign = await store.get(running.campaign_id)
    dns = campaign.state(DNS)
    assert (dns.status, dns.run, dns.settled_count, dns.name_count) == ("RUNNING", 1, 5, 6)
    open_chunks = await pool.fetch(
        "SELECT first_position, failure_count, outcome_counts FROM chunks WHERE state = 'ready'"
    )
    assert [tuple(row) for row in open_chunks] == [(4, 0, None)]
    assert not await pool.fetch("SELECT FROM dns_results WHERE position = 4")
    states = await pool.fetch("SELECT position, state, resolve_reason FROM dead_letters ORDER BY 1")
    assert [tuple(row) for row in states] == [(1, "OPEN", ""), (4, "REDRIVEN", "fixed")]
    *_, opened, resolved = await history(store, running.campaign_no)
    assert opened.phase_changed.to_status == pb.PHASE_STATUS_RUNNING
    assert resolved.dead_letters_resolved.count == 1


async def test_without_positions_every_open_letter_is_redriven(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [0, 2, 4], complete=False)

    assert (await campaigns.RedriveDeadLetters(redrive(running))).count == 3
    assert (await campaigns.RedriveDeadLetters(redrive(running))).count == 0
    assert (await store.get(running.campaign_id)).state(DNS).settled_count == 3


async def test_a_position_without_an_open_letter_stops_the_whole_call(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1, 4])

    refusal = await refused(campaigns.RedriveDeadLetters(redrive(running, 1, 3)))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "DEAD_LETTER_NOT_FOUND")
    assert refusal.metadata["position"] == "3"
    assert (await store.get(running.campaign_id)).is_finished


async def test_a_repeated_request_has_one_effect(campaigns: Stub, store: Store, pool: Pool) -> None:
    running = await settled_with(store, pool, [1, 4])
    request = redrive(running, 1, 4, request_id=str(uuid4()))

    answers = await asyncio.gather(*(campaigns.RedriveDeadLetters(request) for _ in range(5)))

    assert [answer.count for answer in answers] == [2] * 5
    other = redrive(running, 1, request_id=request.request_id)
    assert (await refused(campaigns.RedriveDeadLetters(other))).reason == "REQUEST_ID_REUSED"


async def test_discarded_letters_keep_their_outcome(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1, 4])
    which = {"campaign_id": str(running.campaign_id), "phase": PHASE}

    request = rpc.DiscardDeadLettersRequest(positions=[1], reason="known", **which)
    assert (await campaigns.DiscardDeadLetters(request)).count == 1

    refusal = await refused(campaigns.RedriveDeadLetters(redrive(running, 1)))
    assert refusal.reason == "DEAD_LETTER_NOT_FOUND"
    still_open = rpc.ListDeadLettersRequest(state=pb.DEAD_LETTER_STATE_OPEN)
    listed = (await campaigns.ListDeadLetters(still_open)).dead_letters
    assert [letter.position for letter in listed] == [4]
    receipt = await campaigns.GetReceipt(rpc.GetReceiptRequest(campaign_id=which["campaign_id"]))
    assert receipt.receipt.phases[1].dead_letter_count == 2


@pytest.mark.parametrize("action", [Action.CANCEL, Action.RERUN])
async def test_letters_of_a_run_that_was_left_stay_as_they_are(
    campaigns: Stub, store: Store, pool: Pool, action: Action
) -> None:
    running = await settled_with(store, pool, [1], complete=action is Action.RERUN)
    await act(store, running.campaign_id, action, phase=DNS)

    if action is Action.CANCEL:
        refusal = await refused(campaigns.RedriveDeadLetters(redrive(running)))
        assert refusal.reason == "TRANSITION_NOT_ALLOWED"
    else:
        assert (await campaigns.RedriveDeadLetters(redrive(running))).count == 0
    letter = await store.dead_letters.get(running.campaign_id, DNS, 1, 1)
    assert letter.state == "OPEN"


async def test_no_letter_stands_beyond_the_last_position(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1])
    request = rpc.GetDeadLetterRequest(
        campaign_id=str(running.campaign_id), phase=PHASE, position=2**40
    )

    looked_for = await refused(campaigns.GetDeadLetter(request))
    redriven = await refused(campaigns.RedriveDeadLetters(redrive(running, 2**40)))

    assert looked_for.reason == redriven.reason == "DEAD_LETTER_NOT_FOUND"


async def test_a_reason_that_no_table_takes_is_refused(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await settled_with(store, pool, [1])
    which = {"campaign_id": str(running.campaign_id), "phase": PHASE, "reason": "a\0b"}

    for call in (
        campaigns.RedriveDeadLetters(rpc.RedriveDeadLettersRequest(**which)),
        campaigns.DiscardDeadLetters(rpc.DiscardDeadLettersRequest(**which)),
    ):
        assert (await refused(call)).fields == {"reason"}
