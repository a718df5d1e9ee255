"""The queue of tasks for one test: the stream has one name, so it begins and ends without it."""

import contextlib
from collections.abc import AsyncIterator

import nats.js.errors
from nats.aio.client import Client

from domainflow.validation.v1.task_pb2 import ChunkTask
from services.campaign.ledger import ChunkKey
from services.chassis import jetstream


@contextlib.asynccontextmanager
async def empty_queue(nats_url: str) -> AsyncIterator[Client]:
    client = await jetstream.connect(nats_url, name="test")
    try:
        await wipe(client)
        yield client
        await wipe(client)
    finally:
        await client.close()


async def wipe(client: Client) -> None:
    """Lose every task, the stream and its consumers, as a server with a new disk would."""
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await client.jetstream().delete_stream(jetstream.TASK_STREAM)


async def publish(
    client: Client, *keys: ChunkKey, pool: str = "dns", express: bool = False
) -> None:
    """Tasks for these chunks, as the dispatcher publishes them."""
    await jetstream.ensure_task_stream(client.jetstream())
    for key in keys:
        task = ChunkTask(
            campaign_no=key.campaign_no,
            phase=key.phase,
            run=key.run,
            first_position=key.first_position,
        )
        subject = jetstream.task_subject(pool, express=express)
        await client.jetstream().publish(subject, task.SerializeToString())


async def task_count(client: Client) -> int:
    """Tasks that are not acknowledged; -1 without a stream."""
    try:
        info = await client.jetstream().stream_info(jetstream.TASK_STREAM)
    except nats.js.errors.NotFoundError:
        return -1
    return info.state.messages
