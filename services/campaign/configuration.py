"""Reads campaign configurations: what a request may ask for, and what the stored bytes say."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from services.campaign.allotment import MAX_OFFSET, Asked
from services.campaign.campaign import Phase
from services.campaign.filter import BadFilter, parse_filter, parse_order
from services.campaign.pattern import Pattern, parse
from services.chassis.dns_settings import MAX_RESOLVERS, check_settings
from services.chassis.endpoint import BadEndpoint, parse_endpoint
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.http_settings import Network, check_http_settings
from services.chassis.lead_settings import thresholds_of
from services.chassis.leads import check as check_thresholds
from services.chassis.matching.choice import check_choice
from services.chassis.server import Rules

MAX_NAMES = 1_000_000_000


def check_create(
    request: campaign_service_pb2.CreateCampaignRequest, allowed: Sequence[Network] = ()
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a new campaign. `allowed`: networks that HTTP
    settings may name."""
    if not request.configuration.HasField("generation"):
        yield FieldViolation(
            "configuration.generation", "is required: where do the names come from?"
        )
    yield from _check_parts(request.configuration, allowed)
    yield from check_name(request.name)
    yield from _check_phases(request)


def check_configure(
    request: campaign_service_pb2.ConfigurePhaseRequest, allowed: Sequence[Network] = ()
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about one phase's new configuration. `allowed`: as in
    `check_create`."""
    known = {int(phase): phase for phase in Phase}
    phase = known.get(request.phase)
    if phase is None:
        return
    for other, field in CONFIGURATION_FIELDS.items():
        if request.configuration.HasField(field) != (other == phase):  # type: ignore[arg-type]
            description = "is required" if other == phase else "is not the part of this phase"
            yield FieldViolation(f"configuration.{field}", description)
    yield from _check_parts(request.configuration, allowed)


def check_list(request: campaign_service_pb2.ListCampaignsRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a list's filter and order."""
    try:
        parse_filter(request.filter)
    except BadFilter as problem:
        yield FieldViolation("filter", str(problem))
    try:
        parse_order(request.order_by)
    except BadFilter as problem:
        yield FieldViolation("order_by", str(problem))


def check_update(request: campaign_service_pb2.UpdateCampaignRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about new settings."""
    named, limited = request.HasField("name"), request.HasField("name_rate_limit")
    if not (named or limited or request.mode or request.priority):
        yield FieldViolation("name", "or mode, priority or name_rate_limit has to be given")
    if request.name:
        yield from check_name(request.name)


def check_duplicate(
    request: campaign_service_pb2.DuplicateCampaignRequest,
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a copy."""
    if request.name:
        yield from check_name(request.name)


def check_letters(
    request: campaign_service_pb2.RedriveDeadLettersRequest
    | campaign_service_pb2.DiscardDeadLettersRequest,
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about what becomes of dead letters."""
    if "\0" in request.reason:
        yield FieldViolation("reason", "has a NUL character, which no table takes")


def check_name(name: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a campaign's name."""
    if not name.strip():
        yield FieldViolation("name", "is blank")
    elif "\0" in name:
        yield FieldViolation("name", "has a NUL character, which no table takes")


def _check_parts(
    configuration: campaign_pb2.CampaignConfiguration, allowed: Sequence[Network]
) -> Iterator[FieldViolation]:
    if configuration.generation.HasField("pattern"):
        violations = _check_pattern(configuration.generation.pattern)
        yield from _below("configuration.generation.pattern.", violations)
    for field, named in (
        ("dns", "dns_persona_id"),
        ("http", "http_persona_id"),
        ("analysis", "scoring_profile_id"),
    ):
        part = getattr(configuration, field)
        if getattr(part, named) and part.HasField("settings"):
            path = f"configuration.{field}.{named}"
            yield FieldViolation(path, "does not go with settings: give one of them")
    yield from check_dns(configuration.dns, "configuration.dns")
    if configuration.HasField("http"):
        yield from check_http(configuration.http, "configuration.http", allowed)
    if configuration.lead.HasField("thresholds"):
        thresholds = thresholds_of(configuration.lead.thresholds)
        yield from check_thresholds(thresholds, "configuration.lead.thresholds")


def check_http(
    http: campaign_pb2.HttpConfiguration, path: str, allowed: Sequence[Network] | None
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about how pages are asked for, which stands at `path`,
    as far as it costs little: rules are compiled later."""
    yield from check_http_settings(http.settings, f"{path}.settings", allowed)
    yield from check_choice(http.keywords, f"{path}.keywords")


def check_dns(dns: campaign_pb2.DnsConfiguration, path: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about how DNS is asked, which stands at `path`."""
    # The contract's rule speaks about the ones beyond.
    for index, resolver in enumerate(dns.resolvers[:MAX_RESOLVERS]):
        try:
            parse_endpoint(resolver, default_port=53)
        except BadEndpoint as problem:
            yield FieldViolation(f"{path}.resolvers[{index}]", str(problem))
    yield from check_settings(dns.settings, f"{path}.settings", resolvers=dns.resolvers)


def _check_phases(request: campaign_service_pb2.CreateCampaignRequest) -> Iterator[FieldViolation]:
    wanted = phases(request)
    if request.mode == campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE:
        for phase, field in CONFIGURATION_FIELDS.items():
            # Without names to begin with there is no campaign in any mode: said above.
            if phase is not Phase.DOMAIN_GENERATION and not wanted.get(phase, True):
                yield FieldViolation(
                    f"configuration.{field}",
                    f"is required: FULL_SEQUENCE goes through {phase.name}",
                )


# Field of CampaignConfiguration that configures a phase.
CONFIGURATION_FIELDS = {
    Phase.DOMAIN_GENERATION: "generation",
    Phase.DNS_VALIDATION: "dns",
    Phase.HTTP_VALIDATION: "http",
    Phase.CONTENT_ANALYSIS: "analysis",
    Phase.LEAD_EXTRACTION: "lead",
}


def phases(request: campaign_service_pb2.CreateCampaignRequest) -> dict[Phase, bool]:
    """The phases of the campaign in order, and whether each has a configuration."""
    configured = {
        phase: request.configuration.HasField(field)  # type: ignore[arg-type]
        for phase, field in CONFIGURATION_FIELDS.items()
    }
    final = request.final_phase or max((p for p in configured if configured[p]), default=1)
    return {phase: configured.get(phase, False) for phase in Phase if phase <= final}


def configured_phases(configuration: bytes) -> frozenset[Phase]:
    """The phases that a stored configuration has a part for."""
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    return frozenset(
        phase
        for phase, field in CONFIGURATION_FIELDS.items()
        if message.HasField(field)  # type: ignore[arg-type]
    )


def with_part(configuration: bytes, phase: Phase, given: bytes) -> bytes:
    """The stored configuration with the part of one phase replaced by that of `given`."""
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    field = CONFIGURATION_FIELDS[phase]
    part = getattr(campaign_pb2.CampaignConfiguration.FromString(given), field)
    getattr(message, field).CopyFrom(part)
    return message.SerializeToString()


def without_range(configuration: bytes) -> bytes:
    """The stored configuration for another campaign: its names are those that nobody has taken, and
    no more than these are."""
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    if message.generation.HasField("pattern"):
        source = message.generation.pattern
        pattern = _parse(source)
        # "All from first_offset on" would be all there are without it.
        if source.first_offset and not source.name_count and isinstance(pattern, Pattern):
            source.name_count = min(pattern.combinations, MAX_OFFSET) - source.first_offset
        source.ClearField("first_offset")
        source.ClearField("overlap_allowed")
    return message.SerializeToString()


def has_pattern(configuration: bytes) -> bool:
    """Whether the names of a stored configuration come from a pattern, not from an upload."""
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    return message.generation.HasField("pattern")


def asked_names(configuration: bytes) -> Asked | None:
    """What a stored configuration asks of its pattern; None for an upload.

    Raises InvalidFields when the pattern is not accepted any more.
    """
    source = campaign_pb2.CampaignConfiguration.FromString(configuration).generation
    if not source.HasField("pattern"):
        return None
    return asked_of(source.pattern, "configuration.generation.pattern.")


def asked_of(source: campaign_pb2.PatternSource, path: str) -> Asked:
    """What `source`, which stands at `path`, asks for. Raises InvalidFields."""
    pattern = _parse(source)
    if not isinstance(pattern, Pattern):
        raise InvalidFields(_below(path, pattern))
    return Asked(
        pattern=pattern,
        first_offset=source.first_offset if source.HasField("first_offset") else None,
        name_count=source.name_count,
        overlap_allowed=source.overlap_allowed,
    )


def _below(path: str, violations: Iterable[FieldViolation]) -> Iterator[FieldViolation]:
    for violation in violations:
        yield FieldViolation(f"{path}{violation.field}", violation.description)


def chunk_size(configuration: bytes, phase: Phase) -> int:
    """Names per chunk that the configuration asks for in a phase; 0: the suite decides."""
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    if phase is Phase.DNS_VALIDATION:
        return message.dns.chunk_size
    return message.http.chunk_size if phase is Phase.HTTP_VALIDATION else 0


def _parse(source: campaign_pb2.PatternSource) -> Pattern | list[FieldViolation]:
    name = campaign_pb2.PatternType.Name(source.type) if 0 < source.type <= 3 else ""
    return parse(
        type=name.removeprefix("PATTERN_TYPE_"),
        prefix_length=source.prefix_length,
        suffix_length=source.suffix_length,
        character_set=source.character_set,
        constant=source.constant,
        tlds=source.tlds,
    )


def check_preview(
    request: campaign_service_pb2.PreviewPatternRequest,
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a pattern to look at."""
    yield from _below("pattern.", _check_pattern(request.pattern))


def check_upload(request: campaign_service_pb2.UploadNamesRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about one part of a list."""
    end = request.offset + len(request.lines)
    if end > MAX_NAMES:
        yield FieldViolation("lines", f"end at line {end}; a list has at most {MAX_NAMES}")


def _check_pattern(source: campaign_pb2.PatternSource) -> Iterator[FieldViolation]:
    """What can never work, whatever others have taken."""
    pattern = _parse(source)
    if not isinstance(pattern, Pattern):
        yield from pattern
        return
    # Of more than 64 bits can count, only so many can be had.
    remaining = min(pattern.combinations, MAX_OFFSET) - source.first_offset
    counted_from = " from first_offset on" if source.first_offset else ""
    if remaining <= 0:
        yield FieldViolation(
            "first_offset", f"is past the end: the pattern has {pattern.combinations} names"
        )
    elif source.name_count > remaining:
        yield FieldViolation(
            "name_count", f"is more than the {remaining} names there are{counted_from}"
        )
    elif not source.name_count and remaining > MAX_NAMES:
        yield FieldViolation(
            "name_count",
            f"is needed: {remaining} names remain, a campaign takes at most {MAX_NAMES}",
        )


def rules_of(allowed: Sequence[Network]) -> Rules:
    """What the contract's own rules cannot say, by type of request, for a service that was started
    to allow these networks to HTTP settings."""
    return {
        **RULES,
        campaign_service_pb2.CreateCampaignRequest: partial(check_create, allowed=allowed),
        campaign_service_pb2.ConfigurePhaseRequest: partial(check_configure, allowed=allowed),
    }


# Of a service that allows none.
RULES: Rules = {
    campaign_service_pb2.CreateCampaignRequest: check_create,
    campaign_service_pb2.ConfigurePhaseRequest: check_configure,
    campaign_service_pb2.ListCampaignsRequest: check_list,
    campaign_service_pb2.UpdateCampaignRequest: check_update,
    campaign_service_pb2.DuplicateCampaignRequest: check_duplicate,
    campaign_service_pb2.PreviewPatternRequest: check_preview,
    campaign_service_pb2.UploadNamesRequest: check_upload,
    campaign_service_pb2.RedriveDeadLettersRequest: check_letters,
    campaign_service_pb2.DiscardDeadLettersRequest: check_letters,
}
