"""The embedded NATS keeps what it acknowledged and lets nobody in without the password."""

import asyncio
import os
import signal
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error

from services.suite.nats import EmbeddedNats

pytestmark = pytest.mark.nats


async def _publish(server: EmbeddedNats) -> None:
    client = await nats.connect(server.url)
    stream = client.jetstream()
    await stream.add_stream(name="tasks", subjects=["tasks.>"])
    await stream.publish("tasks.one", b"kept")
    await client.close()


async def _stored(server: EmbeddedNats) -> list[bytes]:
    client = await nats.connect(server.url)
    stream = client.jetstream()
    count = (await stream.stream_info("tasks")).state.messages
    messages = [await stream.get_msg("tasks", seq) for seq in range(1, count + 1)]
    await client.close()
    return [message.data or b"" for message in messages]


async def test_acknowledged_message_survives_a_killed_server(data_folder: Path) -> None:
    async with EmbeddedNats(data_folder) as server:
        await _publish(server)
        assert server.process.pid

        os.kill(server.process.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            await server.process.restarted(after=0)

        assert await _stored(server) == [b"kept"]


async def test_second_start_has_the_messages_and_url_of_the_first(data_folder: Path) -> None:
    async with EmbeddedNats(data_folder) as server:
        await _publish(server)
        url = server.url

    async with EmbeddedNats(data_folder) as server:
        assert await _stored(server) == [b"kept"]
        assert server.url == url


async def test_client_without_the_password_is_refused(data_folder: Path) -> None:
    client = Client()
    async with EmbeddedNats(data_folder) as server:
        with pytest.raises(Error, match="Authorization Violation"):
            await client.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False)
        await client.close()
