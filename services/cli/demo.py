"""`domainflow demo`: a whole campaign against an internet whose every answer is known beforehand.

From made-up names to leads; nothing leaves the machine. All that comes back of each name is
compared with the truth. Only Linux has enough addresses for the web servers: elsewhere it ends
with DNS.
"""

import asyncio
import contextlib
import json
import signal
import string
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import grpc
import typer

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc, stream_pb2
from domainflow.validation.v1 import dns_settings_pb2, http_pb2
from services.cli import export, receipt, refusal, suite_state, terminal
from services.cli.connection import DATA_FOLDER, DEADLINE, DataOption, connected, run
from services.cli.demo_pages import PageCheck, Row, Web, http_configuration
from services.cli.demo_sandbox import Sandbox, open_sandbox
from services.cli.exits import ExitCode, Failure
from services.cli.follow import follow
from services.cli.retry import Patience, cut
from services.cli.startup import Startup
from services.cli.suite_state import data_argument
from services.sandbox.truth import Mix, truth
from services.sandbox.web_truth import WebWorld
from services.suite.suite import Options, Suite

CHARACTERS = string.ascii_lowercase + string.digits
CONSTANT = "demo"
TLDS = (".com", ".net", ".org")
# Where the sandbox's web servers are, and the variable by which a suite is told to fetch there.
NETWORK = "127.64.0.0/10"
_NETWORKS = "HTTP_ALLOWED_NETWORKS"
_SHOWN_MISTAKES = 10
# Calls at once for what only single names tell.
_READERS = 16


def demo(
    names: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="How many names to check.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the truth about every name.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the suite running at the end, until Ctrl-C.")
    ] = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Prove it: run a campaign against a sandbox of known truth and check all that comes of it.

    Starts the suite on the data folder unless it runs there already, resolvers on loopback that
    lose, delay, truncate and forge answers, one of which also lies, and web servers that do what
    web servers do. Exit code 0 only if the receipt balances, its sum is the number of names, and no
    verdict, address, page, keyword, contact and decision is wrong.
    """

    async def work() -> ExitCode:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            address, started = await _door(stack, data)
            sandbox = await stack.enter_async_context(open_sandbox(seed))
            code = await _perform(address, sandbox, names, seed, began)
            _say_how_to_go_on(data, kept=keep or not started)
            if keep and started:
                terminal.say("the suite goes on; Ctrl-C stops it")
                # To be told to stop is the good end here: the check's result stands.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            return code

    def how_to_go_on() -> str:
        return (
            f"interrupted; `domainflow demo{data_argument(data)}` begins anew,"
            f" `{terminal.program()} up{data_argument(data)}` goes on with what was begun"
        )

    raise typer.Exit(run(work(), how_to_go_on))


async def _door(stack: AsyncExitStack, data: Path) -> tuple[str, bool]:
    """The door of the suite on `data`, and whether we started it."""
    state = suite_state.read(data)
    if state is not None and state.is_running:
        return suite_state.door(data), False
    console = terminal.eyes()
    given = Options.from_environment(http_workers=1, analysis_workers=1)
    networks = given.environment.get(_NETWORKS, "")
    allowed = ",".join(filter(None, (networks, NETWORK)))
    options = replace(given, environment={**given.environment, _NETWORKS: allowed})
    with Startup(console) as startup:
        suite = Suite(data, options, on_change=startup.take)
        await stack.enter_async_context(suite)
    return suite.address, True


async def _perform(address: str, sandbox: Sandbox, names: int, seed: int, began: float) -> ExitCode:
    async with connected(address) as channel:
        campaigns = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        asked = request(names, sandbox.settings(), sandbox.web)
        answer = await _created(campaigns, asked)
        campaign_id = answer.campaign.campaign_id
        terminal.say(
            f"\ncampaign {campaign_id}: {names:,} names, resolvers {', '.join(sandbox.resolvers)},"
            " of which the last one lies"
        )
        await campaigns.StartCampaign(
            campaign_service_pb2.StartCampaignRequest(
                campaign_id=campaign_id, request_id=str(uuid.uuid4())
            ),
            timeout=DEADLINE,
        )
        code = await follow(campaigns, campaign_id)
        if code is not ExitCode.OK:
            return code
        account = (
            await campaigns.GetReceipt(
                campaign_service_pb2.GetReceiptRequest(campaign_id=campaign_id), timeout=DEADLINE
            )
        ).receipt
        check = await read_back(channel, campaign_id, names, seed, sandbox.web)
    receipt.show(account, terminal.eyes())
    mistakes = check.mistakes + accounting_errors(account, names, check.verdicts)
    if check.pages:
        mistakes += check.pages.accounting_errors(account)
    for mistake in mistakes:
        terminal.complain(mistake)
    terminal.say(f"{check.wrong:,} wrong of {names:,}; {time.monotonic() - began:.1f} s in all")
    if not terminal.is_watched():
        terminal.emit(
            json.dumps(
                {
                    "campaign_id": campaign_id,
                    "names": names,
                    "wrong": check.wrong,
                    "balanced": account.balanced,
                    "elapsed_seconds": round(time.monotonic() - began, 3),
                }
            )
        )
    return ExitCode.FAILURE if mistakes or check.wrong else ExitCode.OK


def prefix_length(names: int) -> int:
    """The fewest variable characters that make at least so many names."""
    length = 1
    while len(CHARACTERS) ** length * len(TLDS) < names:
        length += 1
    return length


async def _created(
    campaigns: "campaign_service_pb2_grpc.CampaignServiceAsyncStub",
    asked: campaign_service_pb2.CreateCampaignRequest,
) -> campaign_service_pb2.CreateCampaignResponse:
    try:
        return await campaigns.CreateCampaign(asked, timeout=DEADLINE)
    except grpc.aio.AioRpcError as error:
        if any(it.field.endswith("allowed_networks[0]") for it in refusal.read(error).violations):
            raise Failure(
                "the suite that runs here was not started to fetch from the sandbox: stop it, or"
                f" start it with {_NETWORKS}={NETWORK}"
            ) from None
        raise


def request(
    names: int, settings: dns_settings_pb2.DnsSettings, web: Web | None = None
) -> campaign_service_pb2.CreateCampaignRequest:
    """As far as leads, with `web`; to DNS without."""
    pattern = campaign_pb2.PatternSource(
        type=campaign_pb2.PATTERN_TYPE_PREFIX,
        prefix_length=prefix_length(names),
        character_set=CHARACTERS,
        constant=CONSTANT,
        tlds=TLDS,
        name_count=names,
        # However often it is shown: these are the names whose truth is known.
        overlap_allowed=True,
    )
    return campaign_service_pb2.CreateCampaignRequest(
        name=f"demo of {names:,} names",
        mode=campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE,
        configuration=campaign_pb2.CampaignConfiguration(
            generation=campaign_pb2.GenerationConfiguration(pattern=pattern),
            dns=campaign_pb2.DnsConfiguration(settings=settings),
            http=http_configuration(web) if web else None,
            analysis=campaign_pb2.AnalysisConfiguration() if web else None,
            lead=campaign_pb2.LeadConfiguration() if web else None,
        ),
        request_id=str(uuid.uuid4()),
    )


def expected_names(names: int) -> Iterator[str]:
    """The names the pattern stands for, in order, made without the suite's own code."""
    length = prefix_length(names)
    base = len(CHARACTERS)
    for position in range(names):
        number, tld = divmod(position, len(TLDS))
        label = ""
        for _ in range(length):
            number, digit = divmod(number, base)
            label = CHARACTERS[digit] + label
        yield f"{label}{CONSTANT}{TLDS[tld]}"


@dataclass(slots=True)
class Check:
    """The comparison, name by name. `wrong` counts missing and surplus names too."""

    expected: Iterator[str]
    seed: int
    mix: Mix = field(default_factory=Mix)
    seen: int = 0
    wrong: int = 0
    mistakes: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    # What is beyond DNS, where there is something.
    pages: PageCheck | None = None
    # Positions of names that have a page.
    with_page: list[int] = field(default_factory=list)

    def take(self, batch: "stream_pb2.EnrichedBatch") -> None:
        expected = list(islice(self.expected, batch.domain_count))
        surplus = batch.domain_count - len(expected)
        if surplus:
            self._mistake(f"{surplus:,} names more than there should be", surplus)
        first = self.seen
        self.seen += batch.domain_count
        if self.pages:
            self._take_pages(self.pages, batch, first)
        columns = zip(batch.names, batch.dns_verdicts, batch.addresses, strict=True)
        for right, (name, verdict, addresses) in zip(expected, columns, strict=False):
            self.verdicts[export.verdict_name(verdict)] += 1
            true = truth(right, self.seed, self.mix)
            if name != right:
                self._mistake(f"{name} stands where {right} should")
            elif verdict != true.verdict:
                said, due = export.verdict_name(verdict), export.verdict_name(true.verdict)
                self._mistake(f"{name} is {due}, not {said or 'without verdict'}")
            elif addresses != ",".join(true.addresses):
                self._mistake(f"{name} has {','.join(true.addresses)}, not {addresses}")

    def _take_pages(self, pages: PageCheck, batch: "stream_pb2.EnrichedBatch", first: int) -> None:
        columns = zip(
            batch.names,
            batch.dns_verdicts,
            batch.http_verdicts,
            batch.http_status_codes,
            batch.final_urls,
            batch.titles,
            batch.scores_permille,
            batch.lead_reasons,
            strict=True,
        )
        for position, column in enumerate(columns, first):
            row = Row(*column)
            if mistake := pages.row(row):
                self._mistake(mistake)
            if row.http_verdict == http_pb2.HTTP_VERDICT_OK:
                self.with_page.append(position)

    def take_page(self, domain: query_service_pb2.Domain) -> None:
        """All that is known of a name that has a page."""
        assert self.pages
        if mistake := self.pages.page(domain):
            self._mistake(mistake)

    def finish(self) -> None:
        missing = sum(1 for _ in self.expected)
        if missing:
            self._mistake(f"{missing:,} names are missing", missing)

    def _mistake(self, text: str, count: int = 1) -> None:
        self.wrong += count
        if len(self.mistakes) < _SHOWN_MISTAKES:
            self.mistakes.append(text)


async def read_back(
    channel: grpc.aio.Channel, campaign_id: str, names: int, seed: int, web: Web | None
) -> Check:
    """Read everything back through the door and compare."""
    check = Check(
        expected_names(names), seed, pages=PageCheck(web, WebWorld(seed)) if web else None
    )
    stub = query_service_pb2_grpc.QueryServiceStub(channel)
    async for batch in _enriched(stub, campaign_id, Patience()):
        check.take(batch)
    check.finish()
    left = iter(check.with_page)

    async def read() -> None:
        for position in left:
            asked = query_service_pb2.GetDomainRequest(campaign_id=campaign_id, position=position)
            check.take_page((await stub.GetDomain(asked, timeout=DEADLINE)).domain)

    await asyncio.gather(*(read() for _ in range(_READERS)))
    return check


async def _enriched(
    stub: "query_service_pb2_grpc.QueryServiceAsyncStub", campaign_id: str, patience: Patience
) -> AsyncIterator["stream_pb2.EnrichedBatch"]:
    """Every batch once, in order."""
    asked = stream_pb2.StreamEnrichedRequest(campaign_ids=[campaign_id])
    while True:
        call = stub.StreamEnriched(asked)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                assert isinstance(message, stream_pb2.StreamEnrichedResponse)
                patience.progressed()
                if message.WhichOneof("kind") == "summary":
                    return
                asked.cursor = message.batch.cursor
                yield message.batch
            raise cut("the stream ended before its summary")
        except grpc.aio.AioRpcError as error:
            await patience.wait(error)
        finally:
            call.cancel()


def accounting_errors(
    account: campaign_pb2.Receipt, names: int, verdicts: Counter[str]
) -> list[str]:
    """What is wrong with the receipt; nothing is what one wants to hear."""
    found = [] if account.balanced else ["the receipt does not balance"]
    every_name = (campaign_pb2.PHASE_DOMAIN_GENERATION, campaign_pb2.PHASE_DNS_VALIDATION)
    for phase in account.phases:
        if phase.phase not in every_name:
            continue
        settled = receipt.settled(phase)
        if settled != names or phase.name_count != names or phase.unsettled_count:
            found.append(
                f"{campaign_pb2.Phase.Name(phase.phase)}: {settled:,} outcomes for"
                f" {phase.name_count:,} names, {phase.unsettled_count:,} unsettled, of {names:,}"
            )
        if phase.phase == campaign_pb2.PHASE_DNS_VALIDATION:
            counted = {outcome.outcome: outcome.count for outcome in phase.outcomes}
            if counted != dict(verdicts):
                found.append(f"the receipt says {counted}, the rows say {dict(verdicts)}")
    if campaign_pb2.PHASE_DNS_VALIDATION not in {phase.phase for phase in account.phases}:
        found.append("the receipt has no DNS phase")
    return found


def _say_how_to_go_on(data: Path, *, kept: bool) -> None:
    argument = data_argument(data)
    called = terminal.program()
    lines = [f"  {called} up{argument}"] if not kept else []
    lines += [
        f"  {called} campaign list{argument}",
        f"  {called} resolvers{argument}",
        f"  {called} campaign create --name shops --pattern PREFIX --prefix-length 2"
        f" --constant shop --tld .com --watch{argument}",
    ]
    where = "the data stays; go on with" if not kept else "the suite runs; go on with"
    terminal.say(f"\n{where}:\n\n" + "\n".join(lines) + "\n")
