"""Care of the database."""

import grpc

from domainflow.query.v1 import database_pb2
from services.query.part import Context, Part


class DatabaseService(Part):
    """Care of the database."""

    async def GetDatabaseStatus(
        self, request: database_pb2.GetDatabaseStatusRequest, context: Context
    ) -> database_pb2.GetDatabaseStatusResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def ListQueryPerformance(
        self, request: database_pb2.ListQueryPerformanceRequest, context: Context
    ) -> database_pb2.ListQueryPerformanceResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def ListRecommendations(
        self, request: database_pb2.ListRecommendationsRequest, context: Context
    ) -> database_pb2.ListRecommendationsResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError
