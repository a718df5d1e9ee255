"""A real gRPC server on loopback in the place of the door, which cuts streams when told to."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from domainflow.campaign.v1 import campaign_service_pb2_grpc
from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2_grpc

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(campaigns=..., rows=...)` answers the address of a server with these servicers."""
    servers: list[grpc.Server] = []

    def start(
        *,
        campaigns: campaign_service_pb2_grpc.CampaignServiceServicer | None = None,
        rows: query_service_pb2_grpc.QueryServiceServicer | None = None,
        validation: validation_service_pb2_grpc.ValidationServiceServicer | None = None,
    ) -> str:
        # No SO_REUSEPORT: two tests must never share a port by accident.
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        servers.append(server)
        if campaigns is not None:
            campaign_service_pb2_grpc.add_CampaignServiceServicer_to_server(campaigns, server)
        if rows is not None:
            query_service_pb2_grpc.add_QueryServiceServicer_to_server(rows, server)
        if validation is not None:
            validation_service_pb2_grpc.add_ValidationServiceServicer_to_server(validation, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()
