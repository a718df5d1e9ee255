"""What requests say, in the words of the domain."""

import os
import time
from typing import Any
from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2
from services.campaign.campaign import Mode, Phase, Priority


def asked_mode(mode: campaign_pb2.CampaignMode.ValueType) -> Mode | None:
    """None when the request leaves it open."""
    if not mode:
        return None
    return Mode(campaign_pb2.CampaignMode.Name(mode).removeprefix("CAMPAIGN_MODE_"))


def asked_priority(priority: campaign_pb2.Priority.ValueType) -> Priority | None:
    """None when the request leaves it open."""
    if not priority:
        return None
    return Priority(campaign_pb2.Priority.Name(priority).removeprefix("PRIORITY_"))


def asked_phase(request: Any) -> Phase | None:
    """The phase that the request names; None for the current one."""
    return Phase(request.phase) if request.phase else None


def uuid7() -> UUID:
    """A UUID version 7 (RFC 9562): milliseconds since 1970, then random bits."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
