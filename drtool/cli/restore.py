"""`drtool restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.targets import LATEST, TargetOptions, read_moment, read_target
from drtool.cli.verdicts import leave
from drtool.errors import UsageError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from drtool.model.outcome import RestorePreview, RestoreReport
    from drtool.model.target import RecoveryTarget
    from drtool.report.progress import ProgressView


@click.command(
    cls=Command,
    epilog=(
        "\b\nExamples:\n"
        "  drtool restore main-db --to latest\n"
        "  drtool restore main-db --to '2024-05-01T10:00' --into /srv/restore --plan\n"
        "  drtool restore main-db --to-lsn 0/3000060 --report restore.html"
    ),
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--to", metavar="TIME|latest", help="All commits up to this moment, none after it.")
@click.option("--to-lsn", metavar="LSN", help="Up to this WAL position.")
@click.option("--to-xid", metavar="XID", help="Up to the commit of this transaction.")
@click.option("--to-name", metavar="NAME", help="Up to this restore point.")
@click.option("--backup", metavar="ID", help="The consistent end of this backup.")
@click.option(
    "--from-backup",
    metavar="ID",
    help="Begin with this base backup of a PostgreSQL; else with the newest before the target.",
)
@click.option(
    "--each-latest",
    is_flag=True,
    help="Each source as far as it goes by itself, instead of one moment for all.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A new or empty directory; else a new one under the policy's restore_root.",
)
@click.option(
    "--plan", "--dry-run", "plan", is_flag=True, help="Say what would be done, and do nothing."
)
@click.option(
    "--lost-at",
    metavar="TIME",
    help="When the disaster was: the loss is measured back from it, else from TIME, which says"
    " nothing of what the disaster took.",
)
@click.option(
    "--accept-gap",
    is_flag=True,
    help="With --to latest: stop at a known gap in the WAL, or in the stream of a Redis, and lose what"
    " lies behind it.",
)
@click.option(
    "--timeline",
    type=click.IntRange(min=1),
    metavar="N",
    help="Follow the WAL to this timeline; else to the newest.",
)
@click.option(
    "--path",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only what this matches, as in a .gitignore; of trees of files alone. Repeatable.",
)
@click.option(
    "--delta",
    is_flag=True,
    help="Change only what differs in the directory that is there; of trees of files alone.",
)
@click.option(
    "--ttl",
    type=click.Choice(["absolute", "shift", "persist"]),
    default="absolute",
    show_default=True,
    help="When keys of a Redis expire: as they would have, later by the time since, or never.",
)
@click.option(
    "--masters",
    type=click.IntRange(min=1, max=1000),
    metavar="N",
    help="Deal the keys of a Redis out to this many masters; 1 is no cluster. Replicas come back only"
    " where it is as many masters as there were.",
)
@click.option(
    "--uncertain",
    type=click.Choice(["earlier", "later"]),
    help="Where TIME lies in an outage of a Redis' receiver: without the writes whose moment nobody knows,"
    " or with them. Else such a moment is refused.",
)
@click.option(
    "--accept-source",
    is_flag=True,
    help="Backups of another stack or another tree under this name are the right ones.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the report as a self-contained HTML page.",
)
@click.pass_obj
def restore(
    front: Front,
    /,
    *,
    sources: tuple[str, ...],
    from_backup: str | None,
    each_latest: bool,
    into: Path | None,
    plan: bool,
    lost_at: str | None,
    accept_gap: bool,
    timeline: int | None,
    patterns: tuple[str, ...],
    delta: bool,
    ttl: str,
    masters: int | None,
    uncertain: str | None,
    accept_source: bool,
    report: Path | None,
    **target: str | None,
) -> None:
    """Bring each SOURCE, or every source of the policy, back to one moment.

    TIME is ISO 8601; without an offset it is read in the policy's time zone, and shown with it.
    Exactly one target is given. What is half restored cannot be started, and nothing that is there
    is written over.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import Edge, RestoreRequest, TtlMode
    from drtool.wiring.restore import restore as carry_out

    asked = TargetOptions(**_each_latest(target) if each_latest else target)
    moment = read_target(asked, policy.timezone)
    request = RestoreRequest(
        sources=sources,
        target=moment,
        into=into,
        report=report,
        is_plan=plan,
        lost_at=read_moment(lost_at, policy.timezone, option="--lost-at") if lost_at else None,
        accepts_gap=accept_gap,
        each_latest=each_latest,
        timeline=timeline,
        patterns=patterns,
        is_delta=delta,
        ttl=TtlMode(ttl),
        masters=masters,
        edge=Edge(uncertain) if uncertain else None,
        accepts_source=accept_source,
        from_backup=from_backup,
        zone=policy.timezone,
    )
    with front.progress() as view:
        _echo(view, moment, policy.timezone)
        outcome = carry_out(request, policy, front.surroundings(view))
    _show(front, outcome)


def _echo(view: ProgressView, target: RecoveryTarget, zone: ZoneInfo) -> None:
    """The moment as it was understood."""
    from drtool.model.measure import format_moment
    from drtool.model.progress import Noted
    from drtool.model.target import ToTime

    if isinstance(target, ToTime):
        view(Noted(f"restoring to {format_moment(target.moment, zone)}"))


def _show(front: Front, outcome: RestoreReport | tuple[RestorePreview, ...]) -> None:
    if isinstance(outcome, tuple):
        front.show_all("restore-plans", outcome)
        leave(outcome)
    else:
        front.show(outcome)
        leave([outcome])


def _each_latest(target: dict[str, str | None]) -> dict[str, str | None]:
    if any(target.values()):
        raise UsageError(
            "--each-latest and another target exclude each other",
            hint="Give one of them: `drtool restore --each-latest`.",
        )
    return {**target, "to": LATEST}
