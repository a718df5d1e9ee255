"""Refusals: why a call was not done. Plain Python; the server turns them into gRPC statuses.

The outcome of a check on a domain name is never one of these: it is data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path as in the proto (`pattern.tlds[2]`) and what is wrong."""

    field: str
    description: str


class ServiceError(Exception):
    """A refused call. Subclasses name the status `code` and the `reason` from ErrorReason.

    `metadata` holds the facts of this case (strings; see error_reason.proto for the keys).
    `retry_after`
    is in seconds, set where trying again makes sense.
    """

    code: ClassVar[str]
    reason: ClassVar[str]

    def __init__(
        self, message: str, *, retry_after: float | None = None, **metadata: object
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.metadata = {key: str(value) for key, value in metadata.items()}
        self.violations: Sequence[FieldViolation] = ()


class InvalidArgument(ServiceError):
    """The caller's request is wrong whatever the state of the system."""

    code = "INVALID_ARGUMENT"


class NotFound(ServiceError):
    """What the request names does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(ServiceError):
    """What the request would make is there already."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(ServiceError):
    """The request is right but not in the present state."""

    code = "FAILED_PRECONDITION"


class Aborted(ServiceError):
    """Something changed since the caller looked; look again."""

    code = "ABORTED"


class OutOfRange(ServiceError):
    """The request is right but beyond what is there."""

    code = "OUT_OF_RANGE"


class ResourceExhausted(ServiceError):
    """Too much at once; try again after `retry_after`."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(ServiceError):
    """A part is away; try again after `retry_after`."""

    code = "UNAVAILABLE"


class DeadlineExceeded(ServiceError):
    """The call's deadline ended before the answer was ready."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE"


class InvalidFields(InvalidArgument):
    """At least one field breaks a rule; all of them are named at once."""

    reason = "INVALID_FIELDS"

    def __init__(self, violations: Iterable[FieldViolation]) -> None:
        violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class InvalidToken(InvalidArgument):
    """A page token or cursor is damaged, or belongs to another method or other arguments."""

    reason = "INVALID_TOKEN"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}", field=field)
        self.violations = (FieldViolation(field, message),)


class RequestIdReused(InvalidArgument):
    """The request_id came before, with another request."""

    reason = "REQUEST_ID_REUSED"


class CampaignNotFound(NotFound):
    """No campaign has this id."""

    reason = "CAMPAIGN_NOT_FOUND"

    def __init__(self, campaign_id: object) -> None:
        super().__init__(f"no campaign has the id {campaign_id}", campaign_id=campaign_id)


class DnsPersonaNotFound(NotFound):
    """No DNS persona has this id."""

    reason = "DNS_PERSONA_NOT_FOUND"

    def __init__(self, dns_persona_id: object) -> None:
        super().__init__(
            f"no DNS persona has the id {dns_persona_id}", dns_persona_id=dns_persona_id
        )


class DnsPersonaExists(AlreadyExists):
    """Another DNS persona has this name."""

    reason = "DNS_PERSONA_EXISTS"


class TransitionNotAllowed(FailedPrecondition):
    """The transition table does not allow this step from the present status."""

    reason = "TRANSITION_NOT_ALLOWED"


class EarlierPhaseUnfinished(FailedPrecondition):
    """An earlier phase is neither completed nor skipped."""

    reason = "EARLIER_PHASE_UNFINISHED"


class PhaseNotConfigured(FailedPrecondition):
    """The phase has no configuration."""

    reason = "PHASE_NOT_CONFIGURED"


class LaterPhaseStarted(FailedPrecondition):
    """A later phase has used this one's results already."""

    reason = "LATER_PHASE_STARTED"


class EtagMismatch(Aborted):
    """The campaign changed since its etag was read."""

    reason = "ETAG_MISMATCH"


class CampaignActive(FailedPrecondition):
    """The campaign runs or is paused."""

    reason = "CAMPAIGN_ACTIVE"


class CampaignArchived(FailedPrecondition):
    """The campaign is archived."""

    reason = "CAMPAIGN_ARCHIVED"


class CampaignDeleted(FailedPrecondition):
    """The campaign is being deleted."""

    reason = "CAMPAIGN_DELETED"


class ConfigurationFixed(FailedPrecondition):
    """The campaign has names, which its generation configuration belongs to."""

    reason = "CONFIGURATION_FIXED"


class NamesReserved(FailedPrecondition):
    """Another campaign has taken names of the range that this one asks for."""

    reason = "NAMES_RESERVED"


class DeadLetterNotFound(NotFound):
    """No dead letter that the call could act on stands there."""

    reason = "DEAD_LETTER_NOT_FOUND"


class DomainNotFound(NotFound):
    """The campaign has no name at this position."""

    reason = "DOMAIN_NOT_FOUND"

    def __init__(self, campaign_id: object, position: int) -> None:
        super().__init__(
            f"the campaign {campaign_id} has no name at position {position:,}",
            campaign_id=campaign_id,
            position=position,
        )


class WrongNameSource(FailedPrecondition):
    """The campaign takes its names from another source than the call serves."""

    reason = "WRONG_NAME_SOURCE"


class UploadClosed(FailedPrecondition):
    """The campaign has another upload, or its upload is finished."""

    reason = "UPLOAD_CLOSED"


class UploadOffsetStored(AlreadyExists):
    """Lines at this offset are stored already."""

    reason = "UPLOAD_OFFSET_STORED"


class UploadOffsetGap(OutOfRange):
    """Lines before this offset are missing."""

    reason = "UPLOAD_OFFSET_GAP"


class RevisionOutOfRange(OutOfRange):
    """The revision to resume from is after the newest event, or not kept any more."""

    reason = "REVISION_OUT_OF_RANGE"


class OrderNotReady(FailedPrecondition):
    """The order of names is made once all names are there."""

    reason = "ORDER_NOT_READY"

    def __init__(self, campaign_id: object, order: str) -> None:
        super().__init__(
            f"the campaign {campaign_id} cannot be listed by {order} yet: its names are still being"
            " generated, or their order is being made",
            campaign_id=campaign_id,
            order=order,
            retry_after=1,
        )


class ReadSessionExpired(FailedPrecondition):
    """A read session's time is over, or its campaign is gone."""

    reason = "READ_SESSION_EXPIRED"


class OffsetOutOfRange(OutOfRange):
    """A stream has fewer rows than the call leaves out."""

    reason = "OFFSET_OUT_OF_RANGE"


class RunNotFound(NotFound):
    """A phase has no such run, or no results of it."""

    reason = "RUN_NOT_FOUND"


class ResourceNotFound(NotFound):
    """No stored thing of this kind has this id, or none had it in this version. `resource`: such as
    "keyword_set"."""

    reason = "RESOURCE_NOT_FOUND"

    def __init__(self, resource: str, resource_id: object, *, version: int | None = None) -> None:
        named = {} if version is None else {"version": version}
        super().__init__(
            f"no {resource.replace('_', ' ')} has the id {resource_id}"
            + ("" if version is None else f" in version {version}"),
            resource=resource,
            id=resource_id,
            **named,
        )


class ResourceExists(AlreadyExists):
    """Another stored thing of this kind has this name. `other_id`: its id, "" when it has gone."""

    reason = "RESOURCE_EXISTS"

    def __init__(self, resource: str, name: str, other_id: object) -> None:
        super().__init__(
            f"another {resource.replace('_', ' ')} has the name {name!r}",
            resource=resource,
            name=name,
            id=other_id,
        )


class NoPage(FailedPrecondition):
    """The name has no page that could be scored."""

    reason = "NO_PAGE"

    def __init__(self, campaign_id: object, position: int) -> None:
        super().__init__(
            f"the name at position {position:,} of the campaign {campaign_id} has no page that"
            " could be scored",
            campaign_id=campaign_id,
            position=position,
        )


class NoSecretKey(FailedPrecondition):
    """The service has no key to encrypt secrets with."""

    reason = "NO_SECRET_KEY"

    def __init__(self) -> None:
        super().__init__("the service has no key to encrypt secrets with (DOMAINFLOW_SECRET_KEYS)")


class TooManyCalls(ResourceExhausted):
    """The process has as many calls in progress as it admits."""

    reason = "TOO_MANY_CALLS"


class PartUnavailable(Unavailable):
    """A part this call needs is away."""

    reason = "PART_UNAVAILABLE"


class InternalFault(ServiceError):
    """A fault of ours. The message carries a trace id; the rest stands in the log only."""

    code = "INTERNAL"
    reason = "INTERNAL"
