"""What changed: StreamChanges and StreamDifferences."""

from collections.abc import AsyncIterator

import grpc

from domainflow.query.v1 import stream_pb2
from services.query.part import Context, Part


class ChangeService(Part):
    """What changed: StreamChanges and StreamDifferences."""

    async def StreamChanges(
        self, request: stream_pb2.StreamChangesRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamChangesResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        yield stream_pb2.StreamChangesResponse()

    async def StreamDifferences(
        self, request: stream_pb2.StreamDifferencesRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamDifferencesResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        yield stream_pb2.StreamDifferencesResponse()
