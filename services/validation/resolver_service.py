"""The part of ValidationService that tells of resolvers."""

from typing import Any

from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.validation.resolver_reports import ResolverReports

Context = Any


class ResolverService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _resolvers: ResolverReports

    async def ListResolvers(
        self, request: pb.ListResolversRequest, context: Context
    ) -> pb.ListResolversResponse:
        reports = await self._resolvers.list(worker_id=request.worker_id, resolver=request.resolver)
        return pb.ListResolversResponse(resolvers=reports)
