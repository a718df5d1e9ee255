"""Questions to a part on loopback: is it up? A part that is not answers False or an OSError."""

from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def http(port: int, path: str, *, method: str = "GET") -> tuple[int, str]:
    """HTTP status and body of one request to 127.0.0.1."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()
    except aiohttp.ClientError as error:
        raise ConnectionError(str(error)) from error


async def is_serving(address: str) -> bool:
    """Whether a gRPC server reports SERVING for itself as a whole."""
    async with grpc.aio.insecure_channel(address) as channel:
        # Generated at run time: typed by nobody.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
