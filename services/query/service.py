"""QueryService: requests in, rows out as protobuf. No domain layer: there is nothing to decide."""

from domainflow.query.v1 import database_pb2, read_session_pb2, stream_pb2
from domainflow.query.v1 import query_service_pb2 as pb
from services.chassis.server import Rules
from services.query.bulk_service import BulkService, check_enriched, check_leads, check_logs
from services.query.change_service import ChangeService, check_differences
from services.query.database_service import DatabaseService, check_performance
from services.query.funnel_service import FunnelService
from services.query.page_service import PageService, check_list
from services.query.read_session_service import ReadSessionService, check_session
from services.query.stream_service import StreamService, check_stream
from services.query.summary_service import SummaryService


class QueryService(
    PageService,
    StreamService,
    BulkService,
    ChangeService,
    ReadSessionService,
    SummaryService,
    FunnelService,
    DatabaseService,
):
    """Implements domainflow.query.v1.QueryService, each part some of its RPCs."""


# What the contract's own rules cannot say; serve() checks both together.
RULES: Rules = {
    database_pb2.ListQueryPerformanceRequest: check_performance,
    pb.ListDomainsRequest: check_list,
    pb.StreamDomainsRequest: check_stream,
    stream_pb2.StreamDifferencesRequest: check_differences,
    stream_pb2.StreamEnrichedRequest: check_enriched,
    stream_pb2.StreamLeadsRequest: check_leads,
    stream_pb2.StreamLogsRequest: check_logs,
    read_session_pb2.CreateReadSessionRequest: check_session,
}
