"""The suite's services as the contracts name them.

Importing this loads the descriptors of all three, so that whichever process reflection reaches can
describe the whole product.
"""

from domainflow.campaign.v1 import campaign_service_pb2
from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import validation_service_pb2

CAMPAIGN = campaign_service_pb2.DESCRIPTOR.services_by_name["CampaignService"].full_name
VALIDATION = validation_service_pb2.DESCRIPTOR.services_by_name["ValidationService"].full_name
QUERY = query_service_pb2.DESCRIPTOR.services_by_name["QueryService"].full_name
SERVICES = (CAMPAIGN, VALIDATION, QUERY)
