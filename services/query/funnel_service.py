"""Funnel, rejections, top-level domains, and whether the counters are right."""

import grpc

from domainflow.query.v1 import summary_pb2
from services.query.part import Context, Part


class FunnelService(Part):
    """Funnel, rejections, top-level domains, and whether the counters are right."""

    async def GetFunnel(
        self, request: summary_pb2.GetFunnelRequest, context: Context
    ) -> summary_pb2.GetFunnelResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def GetRejectionSummary(
        self, request: summary_pb2.GetRejectionSummaryRequest, context: Context
    ) -> summary_pb2.GetRejectionSummaryResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def ListTldCounts(
        self, request: summary_pb2.ListTldCountsRequest, context: Context
    ) -> summary_pb2.ListTldCountsResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError

    async def CheckCounters(
        self, request: summary_pb2.CheckCountersRequest, context: Context
    ) -> summary_pb2.CheckCountersResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "on its way")
        raise AssertionError
