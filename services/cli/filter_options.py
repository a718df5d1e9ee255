"""Options that say which names: the fields of the contract's DomainFilter, one by one."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from domainflow.query.v1 import query_service_pb2
from domainflow.query.v1.filter_pb2 import DomainFilter
from domainflow.validation.v1 import analysis_pb2, dns_pb2, http_pb2, lead_pb2

HttpOption = Annotated[
    list[str] | None,
    typer.Option(
        "--http",
        metavar="VERDICT",
        help="Only names with this HTTP verdict, such as OK or NOT_FOUND; repeat for more.",
    ),
]
LeadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lead",
        metavar="STATUS",
        help="Only names with this lead decision, such as QUALIFIED; repeat for more.",
    ),
]
ReasonOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reason",
        metavar="REASON",
        help="Only names with this reason of it, such as LOW_SCORE; repeat for more.",
    ),
]
MinScoreOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Only pages with at least this score, 0 to 1.")
]
MaxScoreOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Only pages with at most this score, 0 to 1.")
]
TldOption = Annotated[
    list[str] | None,
    typer.Option("--tld", help="Only names below this top-level domain; repeat for more."),
]
PrefixOption = Annotated[str, typer.Option(help="Only names that begin so.")]
ContainsOption = Annotated[str, typer.Option(help="Only names that contain this text.")]
KeywordOption = Annotated[
    list[str] | None,
    typer.Option("--keyword", help="Only pages with this keyword; repeat for more."),
]
WarningOption = Annotated[
    list[str] | None,
    typer.Option(
        "--warning",
        metavar="WARNING",
        help="Only pages with this warning, such as REPETITION; repeat for more.",
    ),
]
WarningsOption = Annotated[
    bool | None,
    typer.Option("--warnings/--no-warnings", help="Only pages with any warning, or with none."),
]


class OrderWord(StrEnum):
    """Orders of `domains list`."""

    POSITION = "position"
    NAME = "name"
    SCORE = "score"
    SETTLED = "settled"


ORDERS = {
    OrderWord.POSITION: query_service_pb2.DOMAIN_ORDER_POSITION,
    OrderWord.NAME: query_service_pb2.DOMAIN_ORDER_NAME,
    OrderWord.SCORE: query_service_pb2.DOMAIN_ORDER_SCORE,
    OrderWord.SETTLED: query_service_pb2.DOMAIN_ORDER_SETTLE_TIME,
}


def domain_filter(
    *,
    verdict: list[str] | None = None,
    pending: bool = False,
    http: list[str] | None = None,
    lead: list[str] | None = None,
    reason: list[str] | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    tld: list[str] | None = None,
    prefix: str = "",
    contains: str = "",
    keyword: list[str] | None = None,
    warning: list[str] | None = None,
    warnings: bool | None = None,
) -> DomainFilter:
    """The filter of these options. Raises BadParameter that names what there is."""
    return DomainFilter(
        dns_verdicts=numbers("--verdict", dns_pb2.DnsVerdict, "DNS_VERDICT_", verdict),
        dns_pending=pending,
        http_verdicts=numbers("--http", http_pb2.HttpVerdict, "HTTP_VERDICT_", http),
        lead_statuses=numbers("--lead", lead_pb2.LeadStatus, "LEAD_STATUS_", lead),
        lead_reasons=numbers("--reason", lead_pb2.LeadReason, "LEAD_REASON_", reason),
        min_score=min_score,
        max_score=max_score,
        # As people write them.
        tlds=list(dict.fromkeys(each.lower().lstrip(".") for each in tld or [])),
        name_prefix=prefix.lower(),
        name_contains=contains.lower(),
        keywords=list(dict.fromkeys(keyword or [])),
        warnings=numbers("--warning", analysis_pb2.PageWarning, "PAGE_WARNING_", warning),
        has_warnings=warnings,
    )


def numbers(option: str, enum: Any, prefix: str, names: list[str] | None) -> list[Any]:
    """Numbers of an enum's names, given in any case and without the prefix, each once."""
    known = {name.removeprefix(prefix): number for name, number in enum.items() if number}
    wanted = [name.upper().replace("-", "_").removeprefix(prefix) for name in names or []]
    if unknown := [name for name in wanted if name not in known]:
        raise typer.BadParameter(f"{option}: no {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(wanted)]


def word(enum: Any, number: int) -> str:
    """The name of an enum's number as people read it; empty for none."""
    if not number:
        return ""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    known = number in enum.values()
    return enum.Name(number).removeprefix(prefix) if known else str(number)
