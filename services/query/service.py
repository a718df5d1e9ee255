"""QueryService: requests in, rows out as protobuf. No domain layer: there is nothing to decide."""

from domainflow.query.v1 import query_service_pb2 as pb
from services.chassis.server import Rules
from services.query.bulk_service import BulkService
from services.query.change_service import ChangeService
from services.query.database_service import DatabaseService
from services.query.funnel_service import FunnelService
from services.query.page_service import PageService, check_list
from services.query.read_session_service import ReadSessionService
from services.query.stream_service import StreamService
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
RULES: Rules = {pb.ListDomainsRequest: check_list}
