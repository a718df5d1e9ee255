"""What callers store under a name, as the commands about them need it."""

from typing import Any

from domainflow.validation.v1 import (
    http_persona_pb2,
    keyword_pb2,
    proxy_pb2,
    scoring_pb2,
    validation_service_pb2,
)
from services.cli.named import Kind


def _persona(persona: Any) -> tuple[str, str]:
    settings = persona.settings
    schemes = ", ".join(settings.schemes) or "https, http"
    return schemes, settings.proxy_pool_id or "none"


def _resolvers(persona: Any) -> tuple[str]:
    count = len(persona.settings.resolvers)
    return (f"{count:,}" if count else "the machine's",)


DNS_PERSONAS = Kind(
    noun="DNS persona",
    verb="DnsPersona",
    verbs="DnsPersonas",
    field="dns_persona",
    fields="dns_personas",
    messages=validation_service_pb2,
    headings=("resolvers",),
    columns=_resolvers,
)
HTTP_PERSONAS = Kind(
    noun="HTTP persona",
    verb="HttpPersona",
    verbs="HttpPersonas",
    field="http_persona",
    fields="http_personas",
    messages=http_persona_pb2,
    headings=("schemes", "proxies"),
    columns=_persona,
)
KEYWORD_SETS = Kind(
    noun="keyword set",
    verb="KeywordSet",
    verbs="KeywordSets",
    field="keyword_set",
    fields="keyword_sets",
    messages=keyword_pb2,
    content="",
    parts=("rules", "expression"),
    headings=("rules", "version"),
    columns=lambda each: (f"{each.rule_count:,}", str(each.version)),
)
SCORING_PROFILES = Kind(
    noun="scoring profile",
    verb="ScoringProfile",
    verbs="ScoringProfiles",
    field="scoring_profile",
    fields="scoring_profiles",
    messages=scoring_pb2,
    headings=("version",),
    columns=lambda each: (str(each.version),),
)
PROXY_POOLS = Kind(
    noun="proxy pool",
    verb="ProxyPool",
    verbs="ProxyPools",
    field="proxy_pool",
    fields="proxy_pools",
    messages=proxy_pb2,
    content="",
    parts=("proxy_ids", "strategy", "health_rules"),
    headings=("proxies",),
    columns=lambda each: (f"{len(each.proxy_ids):,}",),
)
