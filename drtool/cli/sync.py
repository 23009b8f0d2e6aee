"""`drtool sync`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.targets import is_latest, read_moment
from drtool.cli.verdicts import leave
from drtool.errors import UsageError


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a person takes for intended."""

    source: bool
    unsigned: bool


@click.command(
    cls=Command,
    epilog=(
        "\b\nExamples:\n"
        "  drtool sync uploads --dry-run\n"
        "  drtool sync uploads\n"
        "  drtool sync uploads --restore --to '2024-05-01T10:00' --into /srv/uploads.new"
    ),
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--dry-run", "--plan", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--rehash", is_flag=True, help="Trust no time stamp: read every file, look at every object."
)
@click.option(
    "--max-delete",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Go on although up to so many of the files are gone; else the policy's.",
)
@click.option(
    "--accept-source",
    is_flag=True,
    help="The source is on another disk, or was encrypted, on purpose; or the mirror was another's.",
)
@click.option(
    "--accept-unsigned",
    is_flag=True,
    help="With --restore: owners and set-id bits too, although the runs are not signed.",
)
@click.option("--restore", "is_restore", is_flag=True, help="The other way: from mirror to --into.")
@click.option("--to", metavar="TIME|latest", help="With --restore: as the mirror was then.")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --restore: a new or empty directory.",
)
@click.pass_obj
def sync(
    front: Front,
    /,
    *,
    sources: tuple[str, ...],
    dry_run: bool,
    rehash: bool,
    max_delete: float | None,
    accept_source: bool,
    accept_unsigned: bool,
    is_restore: bool,
    to: str | None,
    into: Path | None,
) -> None:
    """Bring the mirror of each SOURCE, or of all that have one, up to date.

    One object a file, readable by any S3 client. Only what changed is read and put. A source that is
    empty, not mounted, much smaller than before or suddenly encrypted stops the run: nothing is
    changed then. Where the bucket keeps no versions, no object is ever deleted.
    """
    from drtool.model.request import SyncRequest

    if is_restore:
        accepted = Accepted(source=accept_source, unsigned=accept_unsigned)
        _restore(front, sources, to, into=into, is_plan=dry_run, accepted=accepted)
        return
    if to is not None or into is not None or accept_unsigned:
        raise UsageError(
            "--to, --into and --accept-unsigned are for bringing files back",
            hint="Add --restore, or leave them out.",
        )
    from drtool.wiring.sync import sync as carry_out

    request = SyncRequest(
        sources=sources,
        is_dry_run=dry_run,
        is_rehash=rehash,
        max_delete_percent=max_delete,
        accepts_source=accept_source,
    )
    with front.progress() as view:
        outcomes = carry_out(request, front.policy, front.surroundings(view))
    front.show_all("syncs", outcomes)
    leave(outcomes)


def _restore(
    front: Front,
    sources: tuple[str, ...],
    to: str | None,
    *,
    into: Path | None,
    is_plan: bool,
    accepted: Accepted,
) -> None:
    from drtool.model.request import SyncRestore
    from drtool.wiring.sync import restore as carry_out

    if len(sources) != 1 or to is None or into is None:
        raise UsageError(
            "--restore needs one source, a moment and a directory",
            hint="For example: `drtool sync uploads --restore --to latest --into /srv/uploads.new`.",
        )
    zone = front.policy.timezone
    moment = None if is_latest(to) else read_moment(to, zone, option="--to")
    request = SyncRestore(
        source=sources[0],
        moment=moment,
        into=into.absolute(),
        is_plan=is_plan,
        accepts_source=accepted.source,
        accepts_unsigned=accepted.unsigned,
    )
    with front.progress() as view:
        outcome = carry_out(request, front.policy, front.surroundings(view))
    front.show(outcome)
    leave([outcome])
