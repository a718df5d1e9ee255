"""Parallel export: read sessions."""

from collections.abc import AsyncIterator

import grpc

from domainflow.query.v1 import read_session_pb2
from services.query.part import Context, Part


class ReadSessionService(Part):
    """Parallel export: read sessions."""

    async def CreateReadSession(
        self, request: read_session_pb2.CreateReadSessionRequest, context: Context
    ) -> read_session_pb2.CreateReadSessionResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def SplitReadStream(
        self, request: read_session_pb2.SplitReadStreamRequest, context: Context
    ) -> read_session_pb2.SplitReadStreamResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def ReadRows(
        self, request: read_session_pb2.ReadRowsRequest, context: Context
    ) -> AsyncIterator[read_session_pb2.ReadRowsResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        yield read_session_pb2.ReadRowsResponse()
