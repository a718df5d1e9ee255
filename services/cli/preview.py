"""`domainflow campaign preview`: what a pattern would give a campaign that starts now."""

from typing import Annotated

import typer

from domainflow.campaign.v1 import campaign_service_pb2, campaign_service_pb2_grpc
from services.cli import terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.pattern_options import (
    LETTERS,
    CharsOption,
    ConstantOption,
    CountOption,
    FirstOffsetOption,
    OverlapOption,
    PatternType,
    PrefixLengthOption,
    SuffixLengthOption,
    TldOption,
    source,
)


def preview(
    pattern: Annotated[
        PatternType,
        typer.Option(
            case_sensitive=False,
            help="Variable characters before the constant, after it, or both.",
        ),
    ],
    prefix_length: PrefixLengthOption = 0,
    suffix_length: SuffixLengthOption = 0,
    chars: CharsOption = LETTERS,
    constant: ConstantOption = "",
    tld: TldOption = None,
    first_offset: FirstOffsetOption = None,
    count: CountOption = 0,
    allow_overlap: OverlapOption = False,
    sample: Annotated[
        int, typer.Option(min=1, max=1000, help="How many names to show, 1 to 1,000.")
    ] = 10,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Say what a pattern has left, which names come next, and what they would take.

    Takes the same options as `campaign create`, and takes no names. Without --json, and without a
    terminal, only the sample goes to standard output, a name a line.
    """
    request = campaign_service_pb2.PreviewPatternRequest(
        pattern=source(
            pattern,
            prefix_length=prefix_length,
            suffix_length=suffix_length,
            chars=chars,
            constant=constant,
            tlds=tld,
            first_offset=first_offset,
            count=count,
            allow_overlap=allow_overlap,
        ),
        sample_size=sample,
    )

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            answer = await stub.PreviewPattern(request, timeout=DEADLINE)
        if json:
            terminal.emit(terminal.as_json(answer))
            return
        for line in summary(answer):
            terminal.say(line)
        for name in answer.sample:
            terminal.emit(name)

    run(work())


def summary(answer: campaign_service_pb2.PreviewPatternResponse) -> list[str]:
    """What a person wants to know before starting, a line each."""
    campaigns = f"{answer.campaign_count:,} campaign{'s' * (answer.campaign_count != 1)}"
    lines = [
        f"the pattern has {int(answer.exact_combination_count):,} names;"
        f" {answer.free_count:,} are free, from offset {answer.next_free_offset:,} on"
        f" ({campaigns} before)"
    ]
    if answer.name_count:
        basis = "measured here" if answer.measured else "not measured here yet"
        generation = terminal.span(answer.generation_duration.ToTimedelta().total_seconds())
        dns = terminal.span(answer.dns_duration.ToTimedelta().total_seconds())
        lines += [
            f"a campaign started now gets {answer.name_count:,} names from offset"
            f" {answer.first_offset:,} on, the last one {answer.last_name}",
            f"it would take {_size(answer.storage_bytes)} of disk; {generation} to generate,"
            f" {dns} to ask DNS ({basis})",
        ]
    else:
        lines.append("a campaign started now gets no names")
    if answer.missing_count:
        lines.append(f"warning: {answer.missing_count:,} fewer names than asked for")
    elif answer.exhaustion_warning:
        lines.append("warning: hardly any names are left after that")
    return lines


def _size(count: int) -> str:
    """`12 MB`, `3.4 GB`: of 1,000, as disks are sold."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
