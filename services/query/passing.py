"""Lets answers be bytes that were put together elsewhere, beside messages."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from domainflow.query.v1.query_service_pb2_grpc import (
    QueryServiceServicer,
    add_QueryServiceServicer_to_server,
)


def add_query_service(service: QueryServiceServicer, server: grpc.aio.Server) -> None:
    """As the generated function, for a service that may answer with bytes."""
    add_QueryServiceServicer_to_server(service, _Registrar(server))  # type: ignore[arg-type]


class _Registrar:
    """Stands for the server while its handlers are registered."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Left out: all of them come again by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        passing = {name: _passing(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, passing),)
        )
        self._server.add_registered_method_handlers(service, passing)


def _passing(handler: Any) -> Any:
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": _serializer(handler.response_serializer),
    }
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream, **codec)
    return grpc.unary_unary_rpc_method_handler(handler.unary_unary, **codec)


def _serializer(serialize: Callable[[Message], bytes]) -> Callable[[Message | bytes], bytes]:
    return lambda answer: answer if isinstance(answer, bytes) else serialize(answer)
