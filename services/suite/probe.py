"""Questions to a part on loopback: is it up? A part that is not answers False or an OSError."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def request(port: int, path: str, method: str = "GET") -> int:
    """HTTP status of one request to 127.0.0.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        status_line = await reader.readline()
    finally:
        writer.close()
    parts = status_line.split()
    return int(parts[1]) if len(parts) > 1 else 0


async def is_serving(address: str) -> bool:
    """Whether a gRPC server reports SERVING for itself as a whole."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
