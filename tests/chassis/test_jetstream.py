"""The stream of tasks on a real server: declared by whoever comes first, set right by who knows."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from services.chassis import jetstream
from tests.queues import empty_queue, task_count


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[Client]:
    async with empty_queue(nats_url) as client:
        yield client


async def stream(queue: Client) -> StreamConfig:
    return (await queue.jetstream().stream_info(jetstream.TASK_STREAM)).config


async def test_the_stream_is_declared_once_and_keeps_its_tasks(queue: Client) -> None:
    await jetstream.ensure_task_stream(queue.jetstream(), replicas=1)
    await queue.jetstream().publish(jetstream.task_subject("dns"), b"task")

    await jetstream.ensure_task_stream(queue.jetstream())
    await jetstream.ensure_task_stream(queue.jetstream(), replicas=1)

    assert await task_count(queue) == 1


async def test_a_stream_that_was_declared_otherwise_is_set_right_by_who_knows(
    queue: Client,
) -> None:
    await jetstream.ensure_task_stream(queue.jetstream())
    other = replace(await stream(queue), subjects=[jetstream.task_subject("dns")])
    await queue.jetstream().update_stream(other)

    # A worker leaves it as it is.
    await jetstream.ensure_task_stream(queue.jetstream())
    assert (await stream(queue)).subjects == [jetstream.task_subject("dns")]

    await jetstream.ensure_task_stream(queue.jetstream(), replicas=1)
    assert (await stream(queue)).subjects == [f"{jetstream.TASK_SUBJECT}.>"]


async def test_any_server_of_several_will_do(nats_url: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = "nats://127.0.0.1:{1}".format(*nobody.getsockname())
        client = await jetstream.connect(f"{dead}, {nats_url}", name="test")
    try:
        assert client.is_connected
    finally:
        await client.close()
