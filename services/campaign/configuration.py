"""Reads campaign configurations: what a request may ask for, and what the stored bytes say."""

from collections.abc import Iterator

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from services.campaign.campaign import Phase
from services.campaign.pattern import Pattern, parse
from services.chassis.endpoint import BadEndpoint, parse_endpoint
from services.chassis.errors import FieldViolation
from services.chassis.server import Rules

DEFAULT_CHUNK_SIZE = 2000
MAX_NAMES = 1_000_000_000
MAX_RESOLVERS = 1000


def check_create(request: campaign_service_pb2.CreateCampaignRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a new campaign."""
    if not request.configuration.HasField("generation"):
        yield FieldViolation(
            "configuration.generation", "is required: where do the names come from?"
        )
    yield from _check_parts(request.configuration)
    yield from check_name(request.name)
    yield from _check_phases(request)


def check_configure(
    request: campaign_service_pb2.ConfigurePhaseRequest,
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about one phase's new configuration."""
    known = {int(phase): phase for phase in Phase}
    phase = known.get(request.phase)
    if phase is None:
        return
    if phase not in CONFIGURATION_FIELDS:
        yield FieldViolation("phase", f"{phase.name} cannot be configured yet")
        return
    for other, field in CONFIGURATION_FIELDS.items():
        if request.configuration.HasField(field) != (other == phase):  # type: ignore[arg-type]
            description = "is required" if other == phase else "is not the part of this phase"
            yield FieldViolation(f"configuration.{field}", description)
    yield from _check_parts(request.configuration)


def check_name(name: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a campaign's name."""
    if not name.strip():
        yield FieldViolation("name", "is blank")
    elif "\0" in name:
        yield FieldViolation("name", "has a NUL character, which no table takes")


def _check_parts(configuration: campaign_pb2.CampaignConfiguration) -> Iterator[FieldViolation]:
    if configuration.generation.HasField("pattern"):
        for violation in _check_pattern(configuration.generation.pattern):
            yield FieldViolation(
                f"configuration.generation.pattern.{violation.field}", violation.description
            )
    # The contract's rule speaks about the ones beyond.
    for index, resolver in enumerate(configuration.dns.resolvers[:MAX_RESOLVERS]):
        try:
            parse_endpoint(resolver, default_port=53)
        except BadEndpoint as problem:
            yield FieldViolation(f"configuration.dns.resolvers[{index}]", str(problem))


def _check_phases(request: campaign_service_pb2.CreateCampaignRequest) -> Iterator[FieldViolation]:
    wanted = phases(request)
    if missing := [phase.name for phase in wanted if phase not in CONFIGURATION_FIELDS]:
        yield FieldViolation("final_phase", f"{' and '.join(missing)} cannot be configured yet")
    if request.mode == campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE:
        for phase, field in CONFIGURATION_FIELDS.items():
            # Without names to begin with there is no campaign in any mode: said above.
            if phase is not Phase.DOMAIN_GENERATION and not wanted.get(phase, True):
                yield FieldViolation(
                    f"configuration.{field}",
                    f"is required: FULL_SEQUENCE goes through {phase.name}",
                )


# Field of CampaignConfiguration that configures a phase.
CONFIGURATION_FIELDS = {Phase.DOMAIN_GENERATION: "generation", Phase.DNS_VALIDATION: "dns"}


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


def with_part(
    configuration: bytes, phase: Phase, given: campaign_pb2.CampaignConfiguration
) -> bytes:
    """The stored configuration with the part of one phase replaced by that of `given`."""
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    field = CONFIGURATION_FIELDS[phase]
    getattr(message, field).CopyFrom(getattr(given, field))
    return message.SerializeToString()


def pattern_range(configuration: bytes) -> tuple[Pattern, int, int] | None:
    """Pattern, first offset and number of names of a stored configuration; None for an upload."""
    source = campaign_pb2.CampaignConfiguration.FromString(configuration).generation
    if not source.HasField("pattern"):
        return None
    pattern = _parse(source.pattern)
    assert isinstance(pattern, Pattern)
    first = source.pattern.first_offset
    return pattern, first, source.pattern.name_count or pattern.combinations - first


def chunk_size(configuration: bytes) -> int:
    """Names per chunk of the DNS phase."""
    dns = campaign_pb2.CampaignConfiguration.FromString(configuration).dns
    return dns.chunk_size or DEFAULT_CHUNK_SIZE


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


def _check_pattern(source: campaign_pb2.PatternSource) -> Iterator[FieldViolation]:
    pattern = _parse(source)
    if not isinstance(pattern, Pattern):
        yield from pattern
        return
    remaining = pattern.combinations - source.first_offset
    if source.first_offset >= pattern.combinations:
        yield FieldViolation(
            "first_offset", f"is past the end: the pattern has {pattern.combinations} names"
        )
    elif source.name_count > remaining:
        yield FieldViolation(
            "name_count", f"is more than the {remaining} names from first_offset to the end"
        )
    elif not source.name_count and remaining > MAX_NAMES:
        yield FieldViolation(
            "name_count",
            f"is needed: {remaining} names remain, a campaign takes at most {MAX_NAMES}",
        )


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    campaign_service_pb2.CreateCampaignRequest: check_create,
    campaign_service_pb2.ConfigurePhaseRequest: check_configure,
}
