"""Ports are kept over restarts, and a taken one is explained."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.suite.ports import Ports, PortTaken


def _ports(folder: Path) -> Ports:
    return Ports(folder / "ports.json", patience=0.1)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


async def test_second_start_uses_the_same_port(tmp_path: Path) -> None:
    first = await _ports(tmp_path).claim("nats")

    assert await _ports(tmp_path).claim("nats") == first


async def test_kept_port_that_is_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    first = await _ports(tmp_path).claim("nats")

    with socket.socket() as intruder:
        intruder.bind(("127.0.0.1", first))
        intruder.listen(1)
        assert await _ports(tmp_path).claim("nats") != first


async def test_kept_port_of_a_predecessor_is_waited_for(tmp_path: Path) -> None:
    first = await _ports(tmp_path).claim("nats")

    with socket.socket() as predecessor:
        predecessor.bind(("127.0.0.1", first))
        predecessor.listen(1)
        asyncio.get_running_loop().call_later(0.2, predecessor.close)
        patient = Ports(tmp_path / "ports.json", patience=10)
        assert await patient.claim("nats") == first


async def test_fixed_port_that_is_taken_names_its_holder(taken: int, tmp_path: Path) -> None:
    with pytest.raises(PortTaken, match=rf"port {taken} \(envoy\) is taken by .*{os.getpid()}"):
        await _ports(tmp_path).claim("envoy", fixed=taken)


async def test_preferred_port_that_is_taken_gives_the_next(taken: int, tmp_path: Path) -> None:
    port = await _ports(tmp_path).claim("envoy", preferred=taken)

    assert taken < port < taken + 100


async def test_two_users_never_share_a_port(tmp_path: Path) -> None:
    ports = _ports(tmp_path)
    wanted = await ports.claim("first")

    assert await ports.claim("second", preferred=wanted) != wanted


async def test_damaged_file_of_ports_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"nats": ')

    assert await _ports(tmp_path).claim("nats") > 0
