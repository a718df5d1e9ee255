"""`python -m services.sandbox`: the sandbox as a process, until SIGTERM or SIGINT.

Prints one JSON line with the addresses on stdout once all of them answer.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import uvloop

from .authority import AuthorityTree
from .dns_server import Faults, SandboxDns, SandboxDnsSettings

PR_SET_PDEATHSIG = 1


def parser() -> argparse.ArgumentParser:
    """The flags; fractions are of UDP questions."""
    flags = argparse.ArgumentParser(prog="python -m services.sandbox", description=__doc__)
    add = flags.add_argument
    add("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    add("--dns-port", type=int, default=0, help="port of the first DNS server, 0 to choose one")
    add("--dns-servers", type=int, default=1, help="how many, on ports that follow (default: 1)")
    add("--seed", type=int, default=1, help="chooses the truth about every name (default: 1)")
    add("--fault-seed", type=int, default=1, help="chooses which packets faults hit")
    add("--loss", type=_fraction, default=0.01, help="unanswered (default: %(default)s)")
    add("--delay", type=float, default=0.0, help="seconds added to every answer (default: 0)")
    add("--servfail", type=_fraction, default=0.005, help="passing SERVFAIL (default: %(default)s)")
    add("--late", type=_fraction, default=0.002, help="0.1-1.5 s late (default: %(default)s)")
    add("--truncate", type=_fraction, default=0.0, help="TC without need (default: 0)")
    add("--bogus", type=_fraction, default=0.002, help="forged before (default: %(default)s)")
    add(
        "--lying",
        type=_fraction,
        nargs="?",
        const=1.0,
        default=0.0,
        help="of names that do not exist, those that get an address (default: 0; bare: all)",
    )
    add(
        "--liars",
        type=int,
        default=None,
        help="how many of the DNS servers lie, the last ones (default: all)",
    )
    add("--authority", action="store_true", help="serve the delegations, too (Linux)")
    add("--tls", action="store_true", help="answer over TLS, too, as the first DNS server does")
    add("--https", action="store_true", help="and over HTTPS: /dns-query and /resolve")
    add("--web", action="store_true", help="serve the pages, too, on all of 127.0.0.0/8 (Linux)")
    add("--web-port", type=int, default=0, help="port for plain HTTP, 0 to choose one")
    add("--web-tls-port", type=int, default=0, help="port for HTTP over TLS, 0 to choose one")
    add("--fold-case", action="store_true", help="echo names in lower case")
    add("--die-with-parent", action="store_true", help="end when the starting process ends (Linux)")
    return flags


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction of 0-1")
    return value


def _text(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _die_with_parent() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have ended before the request was made.
        if os.getppid() != parent or parent == 1:
            sys.exit("the starting process has ended")


def _allow_descriptors(enough: int) -> None:
    """Let the process have so many, or as many as it may."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        enough = min(enough, most)
    if limit != resource.RLIM_INFINITY and limit < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


async def serve(options: argparse.Namespace) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(kind, stop.set)
    faults = Faults(
        loss=options.loss,
        delay=options.delay,
        servfail=options.servfail,
        late=options.late,
        truncate=options.truncate,
        bogus=options.bogus,
        lying=options.lying,
        fold_case=options.fold_case,
    )
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        first: SandboxDns | None = None
        liars = options.dns_servers if options.liars is None else options.liars
        for number in range(options.dns_servers):
            honest = number < options.dns_servers - liars
            settings = SandboxDnsSettings(
                host=options.host,
                port=options.dns_port + number if options.dns_port else 0,
                seed=options.seed,
                fault_seed=options.fault_seed + number,
                faults=replace(faults, lying=0.0) if honest else faults,
            )
            server = await stack.enter_async_context(SandboxDns(settings))
            addresses.append(_text(server.address))
            first = first or server
        said: dict[str, Any] = {"dns": addresses, "seed": options.seed}
        if options.authority:
            tree = AuthorityTree(SandboxDnsSettings(seed=options.seed))
            root = (await stack.enter_async_context(tree)).root_address
            said["authority"] = {"roots": [_text(root)], "port": root[1]}
        if first and (options.tls or options.https):
            # Here, because aiohttp and cryptography take a quarter of a second to import.
            from . import dns_transports

            shown = dns_transports.identity((*dns_transports.NAMES, options.host))
            said["ca_pem"] = shown.ca
            if options.tls:
                over_tls = dns_transports.SandboxDnsOverTls(first, shown, host=options.host)
                said["tls"] = _text((await stack.enter_async_context(over_tls)).address)
            if options.https:
                over_https = dns_transports.SandboxDnsOverHttps(first, shown, host=options.host)
                said["https"] = _text((await stack.enter_async_context(over_https)).address)
        if options.web:
            from .web_server import NETWORK, SandboxWeb, SandboxWebSettings

            pages = SandboxWebSettings(
                http_port=options.web_port, https_port=options.web_tls_port, seed=options.seed
            )
            _allow_descriptors(pages.limit + 1000)
            web = await stack.enter_async_context(SandboxWeb(pages))
            said["web"] = {
                "http_port": web.http_port,
                "https_port": web.https_port,
                "closed_port": web.closed_port,
                "network": NETWORK,
                "ca_pem": web.ca,
            }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.die_with_parent:
        _die_with_parent()
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
