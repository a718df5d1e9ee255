"""The small internet that the demo runs against: resolvers, and on Linux delegations and pages."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from domainflow.validation.v1 import dns_settings_pb2
from services.cli.demo_pages import Web
from services.cli.exits import Failure


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where the servers of a small internet listen."""

    # Resolvers of different operators; the last one lies.
    resolvers: tuple[str, ...]
    # Where delegations begin, and the port that they lead to; the servers listen on 127.0.0.2 to
    # 127.0.0.4, which only Linux has.
    roots: tuple[str, ...] = ()
    port: int = 0
    web: Web | None = None

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
async def open_sandbox(seed: int) -> AsyncIterator[Sandbox]:
    """A process of its own, so that the servers' work does not slow the check."""
    linux = ["--authority", "--web"] if sys.platform == "linux" else []
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
        *linux,
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
        web = Web.told(told["web"]) if "web" in told else None
        yield Sandbox(tuple(told["dns"]), tuple(tree.get("roots", ())), tree.get("port", 0), web)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
