"""Bulk streams of many campaigns: StreamEnriched, StreamLeads, StreamLogs."""

from collections.abc import AsyncIterator

import grpc

from domainflow.query.v1 import stream_pb2
from services.query.part import Context, Part


class BulkService(Part):
    """Bulk streams of many campaigns: StreamEnriched, StreamLeads, StreamLogs."""

    async def StreamEnriched(
        self, request: stream_pb2.StreamEnrichedRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamEnrichedResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        yield stream_pb2.StreamEnrichedResponse()

    async def StreamLeads(
        self, request: stream_pb2.StreamLeadsRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamLeadsResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        yield stream_pb2.StreamLeadsResponse()

    async def StreamLogs(
        self, request: stream_pb2.StreamLogsRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamLogsResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        yield stream_pb2.StreamLogsResponse()
