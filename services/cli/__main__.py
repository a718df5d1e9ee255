"""`domainflow`: the command groups, and nothing else."""

import typer

from services.cli import lazy

HELP = """Bulk domain campaigns: generate names, ask DNS about every one, explain every verdict.

Data goes to standard output; progress and messages go to standard error.

Exit codes: 0 done; 1 failed; 2 wrong usage, or the service refused an argument; 3 the campaign was
cancelled; 4 a phase failed; 5 the suite is not reachable; 130 interrupted.
"""


_COMMANDS = {
    "up": "services.cli.up:up",
    "demo": "services.cli.demo:demo",
    "doctor": "services.cli.doctor:doctor",
    "check": "services.cli.check:check",
    "workers": "services.cli.workers:workers",
    "resolvers": "services.cli.resolvers:resolvers",
    "explain": "services.cli.profiles:explain",
    "backup": "services.cli.backup:backup",
    "restore": "services.cli.backup:restore",
}
_GROUPS = {
    "campaign": "services.cli.campaign:group",
    "domains": "services.cli.domains:group",
    "dead-letters": "services.cli.dead_letters:group",
    "dns-persona": "services.cli.dns_personas:group",
    "http-persona": "services.cli.http_personas:group",
    "keywords": "services.cli.keywords:group",
    "profiles": "services.cli.profiles:group",
    "proxies": "services.cli.proxies:group",
    "proxy-pool": "services.cli.proxies:pool_group",
    "suppressions": "services.cli.suppressions:group",
    "database": "services.cli.database:group",
    "counters": "services.cli.figures:counters_group",
}


def app() -> typer.Typer:
    """The whole command line, made anew."""
    return lazy.group(
        _COMMANDS,
        _GROUPS,
        name="domainflow",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )


def main() -> None:
    app()()


if __name__ == "__main__":
    main()
