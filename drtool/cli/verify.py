"""`drtool verify`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  drtool verify\n  drtool verify main-db --percent 10\n  drtool verify --whole\n"
    "  drtool verify --repair --plan",
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--percent", type=click.FloatRange(0, 100, min_open=True), help="Read a sample back.")
@click.option("--whole", is_flag=True, help="Read everything back.")
@click.option(
    "--repair",
    is_flag=True,
    help="Put aside, in quarantine/, what others have added to the store; with --plan, only say what.",
)
@click.option(
    "--plan", "--dry-run", "plan", is_flag=True, help="Say what would be read, and read nothing."
)
@click.pass_obj
def verify(
    front: Front,
    *,
    sources: tuple[str, ...],
    percent: float | None,
    whole: bool,
    repair: bool,
    plan: bool,
) -> None:
    """Check the repository: every object there, sizes right, WAL contiguous over its timelines.

    With --percent or --whole contents are read back and authenticated too. Ends with 7 if anything
    is damaged, with 4 if only a backup or a stretch of WAL is missing.
    """
    if whole and percent is not None:
        raise click.UsageError("--whole and --percent exclude each other")
    policy = front.policy
    front.open_repository()
    from drtool.model.request import VerifyLevel, VerifyRequest
    from drtool.wiring.verify import verify as read_back

    level = VerifyLevel.WHOLE if whole else VerifyLevel.SAMPLED if percent else VerifyLevel.QUICK
    share = 100.0 if whole else percent or 0.0
    with front.progress() as view:
        request = VerifyRequest(
            sources=sources, level=level, percent=share, is_dry_run=plan, repairs=repair
        )
        outcome = read_back(request, policy, front.surroundings(view))
    front.show(outcome)
    leave([outcome])
