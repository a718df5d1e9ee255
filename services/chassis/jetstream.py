"""The queue: connect, declare the stream of tasks, publish. The tables stay the truth; the queue
may be lost at any time."""

import asyncio
import logging

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

log = logging.getLogger(__name__)

TASK_STREAM = "domainflow-tasks"
TASK_SUBJECT = "domainflow.validation.task.ready.v1"
# Core NATS, may be lost: "there is a new event of this campaign"; the payload is the campaign's
# number.
EVENT_SUBJECT = "domainflow.campaign.event.appended.v1"

# The server's code for "a stream of this name exists with another configuration".
_STREAM_DIFFERS = 10058

# What the client raises while the server restarts or is away.
AWAY = (
    OSError,
    nats.errors.Error,
    nats.js.errors.APIError,
    TimeoutError,
)


def raise_if_cancelled() -> None:
    """For loops around the client: before Python 3.12 its `wait_for` loses a cancellation that
    comes together with the answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def task_subject(pool: str, *, express: bool = False) -> str:
    """Subject of the tasks of one worker pool, such as "dns"; of those that wait for no others
    when `express`."""
    return f"{TASK_SUBJECT}.{pool}.express" if express else f"{TASK_SUBJECT}.{pool}"


async def connect(url: str, *, name: str) -> Client:
    """Connect, however long it takes, and keep reconnecting for ever afterwards.

    `url` may be several, comma-separated: the servers of a cluster, any of which will do.
    """

    async def on_error(error: Exception) -> None:
        log.warning("NATS: %s", error)

    return await nats.connect(
        [each.strip() for each in url.split(",") if each.strip()],
        name=name,
        # Counts for the first connection too.
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        connect_timeout=2,
        # A server whose machine has vanished says nothing: given up after some 10 s.
        ping_interval=3,
        max_outstanding_pings=2,
        error_cb=on_error,
        # While the server is away a publish fails instead of piling up: the tables bring it back.
        pending_size=0,
    )


async def ensure_task_stream(jetstream: JetStreamContext, *, replicas: int | None = None) -> None:
    """Declare the stream of tasks. Idempotent; also brings it back after its store was lost.

    An existing stream with another number of replicas gets `replicas`; None leaves it as it is.
    """
    config = StreamConfig(
        name=TASK_STREAM,
        subjects=[f"{TASK_SUBJECT}.>"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        num_replicas=replicas or 1,
    )
    try:
        await jetstream.add_stream(config)
    except nats.js.errors.BadRequestError as error:
        if error.err_code != _STREAM_DIFFERS:
            raise
        if replicas is not None:
            await jetstream.update_stream(config)


async def ensure_pool_consumer(
    jetstream: JetStreamContext,
    pool: str,
    *,
    ack_wait: float,
    max_ack_pending: int,
    express: bool = False,
) -> str:
    """Declare the durable consumer that all workers of a pool share for the tasks of one subject,
    and return its name."""
    durable = f"{pool}-express" if express else f"{pool}-workers"
    await jetstream.add_consumer(
        TASK_STREAM,
        ConsumerConfig(
            durable_name=durable,
            filter_subject=task_subject(pool, express=express),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_ack_pending=max_ack_pending,
        ),
    )
    return durable
