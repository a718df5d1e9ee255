"""`domainflow demo`: a whole campaign against an internet whose every answer is known beforehand.

Nothing leaves the machine. Each verdict that comes back is compared with the truth.
"""

import asyncio
import contextlib
import json
import signal
import string
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import grpc
import typer

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.validation.v1 import dns_settings_pb2
from services.cli import export, receipt, suite_state, terminal
from services.cli.connection import DATA_FOLDER, DEADLINE, DataOption, connected, run
from services.cli.exits import ExitCode, Failure
from services.cli.follow import follow
from services.cli.retry import Patience
from services.cli.startup import Startup
from services.cli.suite_state import data_argument
from services.sandbox.truth import Mix, truth
from services.suite.suite import Options, Suite

CHARACTERS = string.ascii_lowercase + string.digits
CONSTANT = "demo"
TLDS = (".com", ".net", ".org")
_SHOWN_MISTAKES = 10


def demo(
    names: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="How many names to check.")
    ] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the truth about every name.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the suite running at the end, until Ctrl-C.")
    ] = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Prove it: run a campaign against a sandbox of known truth and check every verdict.

    Starts the suite on the data folder unless it runs there already, and resolvers on loopback that
    lose, delay, truncate and forge answers, one of which also lies. Exit code 0 only if the receipt
    balances, its sum is the number of names, and no verdict and no address is wrong.
    """

    async def work() -> ExitCode:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            address, started = await _door(stack, data)
            sandbox = await stack.enter_async_context(_sandbox(seed))
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
    with Startup(console) as startup:
        suite = Suite(data, Options.from_environment(), on_change=startup.take)
        await stack.enter_async_context(suite)
    return suite.address, True


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where the servers of a small internet listen."""

    # Resolvers of different operators; the last one lies.
    resolvers: tuple[str, ...]
    # Where delegations begin, and the port that they lead to; the servers listen on 127.0.0.2 to
    # 127.0.0.4, which only Linux has.
    roots: tuple[str, ...] = ()
    port: int = 0

    def settings(self) -> dns_settings_pb2.DnsSettings:
        """How to ask them."""
        return dns_settings_pb2.DnsSettings(
            resolvers=[
                dns_settings_pb2.DnsResolver(address=address, operator=f"operator {number}")
                for number, address in enumerate(self.resolvers, 1)
            ],
            authority=dns_settings_pb2.AuthoritySettings(
                root_servers=self.roots, port=self.port, disabled=not self.roots
            ),
        )


@asynccontextmanager
async def _sandbox(seed: int) -> AsyncIterator[Sandbox]:
    """A process of its own, so that the servers' work does not slow the check."""
    authority = ["--authority"] if sys.platform == "linux" else []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.sandbox",
        "--die-with-parent",
        "--seed",
        str(seed),
        "--dns-servers=3",
        "--liars=1",
        "--lying",
        *authority,
        stdout=asyncio.subprocess.PIPE,
        # Ctrl-C in the terminal is ours; the sandbox answers until the suite has stopped.
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        if not line:
            raise Failure(f"the sandbox did not start (exit status {await process.wait()})")
        told = json.loads(line)
        tree = told.get("authority", {})
        yield Sandbox(tuple(told["dns"]), tuple(tree.get("roots", ())), tree.get("port", 0))
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _perform(address: str, sandbox: Sandbox, names: int, seed: int, began: float) -> ExitCode:
    async with connected(address) as channel:
        campaigns = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        asked = request(names, sandbox.settings())
        answer = await campaigns.CreateCampaign(asked, timeout=DEADLINE)
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
        check = await _check(channel, campaign_id, names, seed)
    receipt.show(account, terminal.eyes())
    mistakes = check.mistakes + accounting_errors(account, names, check.verdicts)
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


def request(
    names: int, settings: dns_settings_pb2.DnsSettings
) -> campaign_service_pb2.CreateCampaignRequest:
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

    def take(self, batch: export.Batch) -> None:
        expected = list(islice(self.expected, batch.domain_count))
        surplus = batch.domain_count - len(expected)
        if surplus:
            self._mistake(f"{surplus:,} names more than there should be", surplus)
        self.seen += batch.domain_count
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

    def finish(self) -> None:
        missing = sum(1 for _ in self.expected)
        if missing:
            self._mistake(f"{missing:,} names are missing", missing)

    def _mistake(self, text: str, count: int = 1) -> None:
        self.wrong += count
        if len(self.mistakes) < _SHOWN_MISTAKES:
            self.mistakes.append(text)


async def _check(channel: grpc.aio.Channel, campaign_id: str, names: int, seed: int) -> Check:
    """Stream everything back through the door and compare."""
    check = Check(expected_names(names), seed)
    asked = export.request([campaign_id], export.DEFAULT_COLUMNS)
    stub = query_service_pb2_grpc.QueryServiceStub(channel)
    async for batch in export.stream(stub, asked, Patience()):
        check.take(batch)
    check.finish()
    return check


def accounting_errors(
    account: campaign_pb2.Receipt, names: int, verdicts: Counter[str]
) -> list[str]:
    """What is wrong with the receipt; nothing is what one wants to hear."""
    found = [] if account.balanced else ["the receipt does not balance"]
    for phase in account.phases:
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
