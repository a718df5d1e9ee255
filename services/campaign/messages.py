"""What a watch sends, made of stored events and measurements. No message but a state or a bookmark
reaches 1 KB."""

from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as AnyMessage

from domainflow.campaign.v1 import campaign_service_pb2, event_pb2
from services.campaign.history import SYSTEM, DeletionRow, StoredEvent

Message = campaign_service_pb2.WatchCampaignsResponse

# Bytes of a message: below 1 KB with the gRPC frame around it.
MAX_SIZE = 1000
_MARK = "..."


def event_message(stored: StoredEvent, campaign_id: UUID | None) -> Message:
    """The message that tells of one event; without an id, of one of the suite's own."""
    if stored.campaign_no == SYSTEM:
        system = event_pb2.SystemEvent.FromString(stored.body)
        system.revision = stored.revision
        system.create_time.FromDatetime(stored.create_time)
        return bounded(Message(system_event=system))
    event = event_pb2.Event.FromString(stored.body)
    event.campaign_id = str(campaign_id)
    event.revision = stored.revision
    event.create_time.FromDatetime(stored.create_time)
    return bounded(Message(event=event))


def deletion_message(row: DeletionRow) -> Message:
    """The message that tells how far a deletion is."""
    return Message(
        deletion=event_pb2.DeletionProgress(
            campaign_id=str(row.campaign_id),
            row_count=row.row_count,
            deleted_count=row.deleted_count,
            finished=row.is_finished,
        )
    )


def bounded(message: Message) -> Message:
    """The message with its longest texts cut until it is short enough; identifiers never are the
    longest ones."""
    while (excess := message.ByteSize() - MAX_SIZE) > 0:
        length, holder, field = max(_texts(message), key=lambda found: found[0])
        assert length > len(_MARK), message
        text = getattr(holder, field).encode()
        kept = text[: max(0, length - excess - len(_MARK))]
        setattr(holder, field, kept.decode(errors="ignore") + _MARK)
    return message


def _texts(message: AnyMessage) -> list[tuple[int, AnyMessage, str]]:
    """Every single text of a message: its length in bytes, and where it stands."""
    found: list[tuple[int, AnyMessage, str]] = []
    for field, value in message.ListFields():
        if field.is_repeated:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            found.append((len(value.encode()), message, field.name))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            found += _texts(value)
    return found
