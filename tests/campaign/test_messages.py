"""No message but a state or a bookmark reaches 1 KB, whatever the contract and the tables allow."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as AnyMessage

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from domainflow.validation.v1 import dns_pb2, http_pb2
from services.campaign.history import SYSTEM, DeletionRow, StoredEvent
from services.campaign.messages import Message, bounded, deletion_message, event_message

ID = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")
LATEST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
LIMIT = 1024
# Longer than any text that the contract or a table's writer lets through; 4 bytes a character.
TEXT = "\N{GRINNING FACE}" * 2_000
NAME = "n" * 253
FIELDS = [
    "name",
    "mode",
    "priority",
    "name_rate_limit",
    "archive_time",
    *(f"configuration.{field}" for field in ("generation", "dns", "http", "analysis", "lead")),
]
# The phase with most of them; a campaign has no more names.
OUTCOMES = [
    campaign_pb2.OutcomeCount(outcome=name.removeprefix("HTTP_VERDICT_"), count=10**9)
    for name in http_pb2.HttpVerdict.keys()
]
# Verdicts are taken back of DNS only.
OF_DNS = [
    campaign_pb2.OutcomeCount(outcome=name.removeprefix("DNS_VERDICT_"), count=10**9)
    for name in dns_pb2.DnsVerdict.keys()
]


def filled(message: AnyMessage) -> None:
    """Set every field to its largest value."""
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            if field.name == "outcomes":
                withdrawn = isinstance(message, event_pb2.VerdictsWithdrawn)
                getattr(message, field.name).extend(OF_DNS if withdrawn else OUTCOMES)
            elif field.name == "fields":
                getattr(message, field.name).extend(FIELDS)
            elif field.name == "first_positions":
                # What one event tells of at most.
                getattr(message, field.name).extend([10**9 - 1] * 100)
            else:
                raise AssertionError(f"how large can {field.full_name} be?")
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            filled(getattr(message, field.name))
        elif field.type == FieldDescriptor.TYPE_STRING:
            text = {"campaign_id": str(ID), "name": NAME, "pool": "http"}
            setattr(message, field.name, text.get(field.name, TEXT))
        elif field.type == FieldDescriptor.TYPE_ENUM:
            setattr(message, field.name, max(field.enum_type.values_by_number))
        elif field.type == FieldDescriptor.TYPE_DOUBLE:
            setattr(message, field.name, 1e300)
        elif field.type == FieldDescriptor.TYPE_BOOL:
            setattr(message, field.name, True)
        elif field.type == FieldDescriptor.TYPE_INT32:
            # Negative numbers take ten bytes, but there are none.
            setattr(message, field.name, 2**31 - 1)
        else:
            assert field.type == FieldDescriptor.TYPE_INT64, field.full_name
            setattr(message, field.name, 2**63 - 1)


def kinds(message: type[AnyMessage]) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.oneofs_by_name["kind"].fields]


@pytest.mark.parametrize("kind", kinds(event_pb2.Event))
def test_an_event_is_short(kind: str) -> None:
    event = event_pb2.Event()
    getattr(event, kind).SetInParent()
    filled(getattr(event, kind))

    stored = StoredEvent(7, 2**63 - 1, LATEST, event.SerializeToString())
    message = event_message(stored, ID)

    assert message.ByteSize() < LIMIT
    assert message.event.campaign_id == str(ID)
    assert message.event.WhichOneof("kind") == kind


@pytest.mark.parametrize("kind", kinds(event_pb2.SystemEvent))
def test_an_event_of_the_suite_is_short(kind: str) -> None:
    event = event_pb2.SystemEvent()
    getattr(event, kind).SetInParent()
    filled(getattr(event, kind))

    stored = StoredEvent(SYSTEM, 2**63 - 1, LATEST, event.SerializeToString())
    message = event_message(stored, None)

    assert message.ByteSize() < LIMIT
    assert message.system_event.WhichOneof("kind") == kind


def test_the_longest_name_of_a_campaign_is_told_in_full() -> None:
    created = event_pb2.CampaignCreated(name="\N{GRINNING FACE}" * 200)
    event = event_pb2.Event(campaign_created=created)

    message = event_message(StoredEvent(7, 1, LATEST, event.SerializeToString()), ID)

    assert message.ByteSize() < LIMIT
    assert message.event.campaign_created == created


def test_progress_is_short() -> None:
    progress = event_pb2.Progress()
    filled(progress)

    message = bounded(Message(progress=progress))

    assert message.ByteSize() < LIMIT
    assert list(message.progress.outcomes) == OUTCOMES
    assert message.progress.waiting_for.endpoint


def test_a_deletion_is_short() -> None:
    message = deletion_message(DeletionRow(7, ID, 2**63 - 1, 2**63 - 1, True))

    assert message.ByteSize() < LIMIT


def test_the_longest_text_is_cut_and_the_others_stay() -> None:
    letter = event_pb2.NameDeadLettered(name=NAME, cause="\N{GRINNING FACE}" * 300)
    event = event_pb2.Event(name_dead_lettered=letter)

    message = event_message(StoredEvent(7, 1, LATEST, event.SerializeToString()), ID)

    told = message.event.name_dead_lettered
    assert told.name == NAME
    assert told.cause.endswith("...")
    assert letter.cause.startswith(told.cause.removesuffix("..."))


def test_what_is_short_enough_is_left_as_it_is() -> None:
    changed = event_pb2.PhaseChanged(actor="caller", reason="r" * 500)
    event = event_pb2.Event(phase_changed=changed)

    message = event_message(StoredEvent(7, 1, LATEST, event.SerializeToString()), ID)

    assert message.event.phase_changed == changed
