"""`domainflow`: the command groups, and nothing else."""

import typer

from services.cli import campaign, database, dead_letters, dns_personas, domains, figures
from services.cli.backup import backup, restore
from services.cli.check import check
from services.cli.demo import demo
from services.cli.doctor import doctor
from services.cli.resolvers import resolvers
from services.cli.up import up
from services.cli.workers import workers

HELP = """Bulk domain campaigns: generate names, ask DNS about every one, explain every verdict.

Data goes to standard output; progress and messages go to standard error.

Exit codes: 0 done; 1 failed; 2 wrong usage, or the service refused an argument; 3 the campaign was
cancelled; 4 a phase failed; 5 the suite is not reachable; 130 interrupted.
"""


def app() -> typer.Typer:
    """The whole command line, made anew."""
    made = typer.Typer(
        name="domainflow",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    made.command()(up)
    made.command()(demo)
    made.command()(doctor)
    made.command()(check)
    made.command()(workers)
    made.command()(resolvers)
    made.command()(backup)
    made.command()(restore)
    made.add_typer(campaign.group(), name="campaign")
    made.add_typer(domains.group(), name="domains")
    made.add_typer(dead_letters.group(), name="dead-letters")
    made.add_typer(dns_personas.group(), name="dns-persona")
    made.add_typer(database.group(), name="database")
    made.add_typer(figures.counters_group(), name="counters")
    return made


def main() -> None:
    app()()


if __name__ == "__main__":
    main()
