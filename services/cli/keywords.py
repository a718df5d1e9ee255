"""`domainflow keywords ...`: sets of what is looked for on pages, and what they hit."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import keyword_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2
from services.cli import evidence, http_options, terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.dns_options import read_text
from services.cli.exits import ExitCode, Failure
from services.cli.http_personas import TEST_DEADLINE
from services.cli.kinds import HTTP_PERSONAS, KEYWORD_SETS, SCORING_PROFILES
from services.cli.named import (
    CheckOption,
    DescriptionOption,
    EtagOption,
    FileOption,
    NameArgument,
    add_commands,
    create,
    with_stub,
)
from services.cli.options import JsonOption
from services.cli.progress import counted

WordsOption = Annotated[
    str,
    typer.Option(
        "--words", metavar="FILE|-", help="Words to look for, one a line, in any case and anywhere."
    ),
]
CsvOption = Annotated[
    str,
    typer.Option(
        "--csv",
        metavar="FILE|-",
        help="Rules with a head line: name and pattern, and any of kind (literal or regex),"
        " category, case_sensitive, whole_word (yes or no), context_characters.",
    ),
]
_YES = ("yes", "true", "1", "y")
_NO = ("no", "false", "0", "n", "")
_COLUMNS = (
    *("name", "pattern", "kind", "category"),
    *("case_sensitive", "whole_word", "context_characters"),
)


def group() -> typer.Typer:
    """The commands below `domainflow keywords`."""
    made = typer.Typer(no_args_is_help=True, help="Sets of what is looked for on pages.")
    made.command("create")(create_set)
    made.command("rules")(set_rules)
    made.command("scan")(scan)
    made.command("extract")(extract)
    add_commands(made, KEYWORD_SETS)
    return made


def create_set(
    name: Annotated[str, typer.Option(help="What people call it; unique.")],
    words: WordsOption = "",
    table: CsvOption = "",
    file: FileOption = "",
    expression: http_options.ExpressionOption = "",
    description: DescriptionOption = "",
    check: CheckOption = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Create a keyword set of words, of rules in CSV or of JSON, and print its id.

    Example:

        domainflow keywords create --name shops --words words.txt
    """

    async def work(stub: Any) -> None:
        made = pb.KeywordSet(name=name, description=description)
        if file:
            KEYWORD_SETS.read(made, file)
        made.rules.extend(_rules(words, table))
        if expression:
            made.expression = expression
        await create(stub, KEYWORD_SETS, made, check=check, json=json)

    with_stub(server, data, work)


def set_rules(
    name: NameArgument,
    words: WordsOption = "",
    table: CsvOption = "",
    remove: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Rule to remove; repeat for more.")
    ] = None,
    etag: EtagOption = "",
    check: CheckOption = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Add, replace and remove rules of a set. A rule with the name of a present one replaces it."""
    if not (words or table or remove):
        raise typer.BadParameter("give --words, --csv or --remove")

    async def work(stub: Any) -> None:
        request = pb.SetKeywordRulesRequest(
            keyword_set_id=await KEYWORD_SETS.id_of(stub, name),
            rules=_rules(words, table),
            removed_rules=remove or [],
            etag=etag,
            validate_only=check,
        )
        stored = (await stub.SetKeywordRules(request, timeout=DEADLINE)).keyword_set
        count = counted(len(stored.rules) or stored.rule_count, "rule")
        would = "would have" if check else "has"
        terminal.say(f"{stored.name} {would} {count}, version {stored.version}")
        if json:
            terminal.emit(terminal.as_json(stored))

    with_stub(server, data, work)


def scan(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE|-...", help="Texts to look at, up to 100.")
    ],
    keyword: http_options.KeywordOption = None,
    keyword_set: http_options.KeywordSetOption = None,
    expression: http_options.ExpressionOption = "",
    html: Annotated[
        bool, typer.Option("--html", help="Read them as HTML; files called .html are anyway.")
    ] = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Look for keywords in files. Ends with 1 when none is a hit.

    Example:

        domainflow keywords scan page.html --keyword-set shops
    """

    async def work() -> ExitCode:
        request = pb.ScanTextRequest()
        for file in files:
            is_html = html or file.lower().endswith((".html", ".htm"))
            request.texts.add(text=read_text(file), is_html=is_html)
        async with connected(locate(server, data)) as channel:
            request.keywords.CopyFrom(
                await http_options.choice(channel, keyword, keyword_set, expression)
            )
            answer = await _stub(channel).ScanText(request, timeout=DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
        else:
            for file, found in zip(files, answer.texts, strict=True):
                terminal.show(_hits(file, found.rule_hits))
        is_hit = any(found.keyword_match for found in answer.texts)
        return ExitCode.OK if is_hit else ExitCode.FAILURE

    raise typer.Exit(run(work()))


def extract(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="Pages to fetch, up to 100.")],
    keyword: http_options.KeywordOption = None,
    keyword_set: http_options.KeywordSetOption = None,
    expression: http_options.ExpressionOption = "",
    http_persona: http_options.HttpPersonaOption = "",
    profile: http_options.ProfileOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Fetch pages now, and show what they hit, what they are and how they score. Stores nothing."""

    async def work() -> None:
        request = validation_service_pb2.ExtractKeywordsRequest(urls=urls)
        async with connected(locate(server, data)) as channel:
            stub = _stub(channel)
            request.keywords.CopyFrom(
                await http_options.choice(channel, keyword, keyword_set, expression)
            )
            if http_persona:
                request.http_persona_id = await HTTP_PERSONAS.id_of(stub, http_persona)
            if profile:
                request.scoring_profile_id = await SCORING_PROFILES.id_of(stub, profile)
            answer = await stub.ExtractKeywords(request, timeout=TEST_DEADLINE)
        if json or not terminal.is_watched():
            for page in answer.pages:
                terminal.emit(terminal.as_json(page))
        else:
            terminal.show(_pages(answer.pages))

    run(work())


def _stub(channel: Any) -> Any:
    from domainflow.validation.v1 import validation_service_pb2_grpc

    return validation_service_pb2_grpc.ValidationServiceStub(channel)


def _rules(words: str, table: str) -> list[pb.KeywordRule]:
    rules = []
    if words:
        found = dict.fromkeys(" ".join(line.split()) for line in read_text(words).splitlines())
        rules += [pb.KeywordRule(name=word[:100], pattern=word) for word in found if word]
    if table:
        rules += _of_csv(table)
    return rules


def _of_csv(file: str) -> Iterator[pb.KeywordRule]:
    """Raises Failure, with the line."""
    rows = csv.DictReader(io.StringIO(read_text(file)), strict=True)
    try:
        unknown = sorted(set(rows.fieldnames or ()) - set(_COLUMNS))
        if unknown or "pattern" not in (rows.fieldnames or ()):
            said = f"unknown columns {', '.join(unknown)}" if unknown else "no column pattern"
            raise Failure(f"{file}: {said}; there are {', '.join(_COLUMNS)}", ExitCode.USAGE)
        for row in rows:
            try:
                yield _rule(row)
            except ValueError as problem:
                where = f"{file}, line {rows.line_num}"
                raise Failure(f"{where}: {problem}", ExitCode.USAGE) from None
    except csv.Error as problem:
        raise Failure(f"{file}, line {rows.line_num}: {problem}", ExitCode.USAGE) from None


def _rule(row: dict[str, Any]) -> pb.KeywordRule:
    """Raises ValueError."""
    if None in row:
        raise ValueError("more fields than the head line has")
    given = {column: (value or "").strip() for column, value in row.items()}
    kind = given.get("kind", "").lower() or "literal"
    if kind not in ("literal", "regex"):
        raise ValueError(f"kind {kind!r} is neither literal nor regex")
    rule = pb.KeywordRule(
        name=given.get("name") or given["pattern"][:100],
        pattern=given["pattern"],
        kind=pb.KEYWORD_KIND_REGEX if kind == "regex" else pb.KEYWORD_KIND_LITERAL,
        category=given.get("category", ""),
        case_sensitive=_truth(given, "case_sensitive"),
        whole_word=_truth(given, "whole_word"),
    )
    if context := given.get("context_characters"):
        rule.context_characters = int(context)
    return rule


def _truth(given: dict[str, str], column: str) -> bool:
    said = given.get(column, "").lower()
    if said not in (*_YES, *_NO):
        raise ValueError(f"{column} {said!r} is neither yes nor no")
    return said in _YES


def _hits(title: str, hits: Sequence[pb.RuleHits]) -> Table:
    shown = terminal.table(escape(title), ("rule", "hits", "first"), right=("hits",))
    for each in hits:
        first = next(iter(each.snippets), None)
        text = f"{first.before}[{first.hit}]{first.after}" if first else ""
        count = each.hit_count + each.title_hit_count
        shown.add_row(escape(each.rule), f"{count:,}", escape(text))
    return shown


def _pages(pages: Sequence[validation_service_pb2.ExtractedPage]) -> Table:
    from domainflow.validation.v1 import page_pb2

    headings = ("url", "verdict", "kind", "score", "hits", "contacts", "why")
    shown = terminal.table("", headings, right=("score",))
    for each in pages:
        page = each.page
        kind = page_pb2.PageKind.Name(page.kind) if each.HasField("page") else ""
        hits = [f"{it.rule} {it.hit_count + it.title_hit_count}" for it in page.rule_hits[:5]]
        shown.add_row(
            escape(each.url),
            evidence.http_verdict_name(each.http.verdict),
            terminal.label(kind, "PAGE_KIND_"),
            f"{each.breakdown.score:.3f}" if each.HasField("breakdown") else "",
            escape(", ".join(hits)),
            escape(", ".join(it.value for it in page.contacts[:2])),
            escape(each.http.evidence.reason),
        )
    return shown
