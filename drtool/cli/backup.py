"""`drtool backup`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExample:\n  drtool backup main-db")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--accept-source",
    is_flag=True,
    help="A source that looks empty or shrunken, or a tree moved or encrypted, is as it should be; of two"
    " servers that were backed up under one name, this one is production.",
)
@click.option(
    "--unread",
    is_flag=True,
    help="Keep the snapshot of a Redis whose version is not known, without reading it.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 16),
    default=3,
    show_default=True,
    metavar="N",
    help="So many sources at a time; 1 takes them one after the other, and the least memory.",
)
@click.pass_obj
def backup(
    front: Front,
    *,
    sources: tuple[str, ...],
    dry_run: bool,
    accept_source: bool,
    unread: bool,
    at_once: int,
) -> None:
    """Take a backup now, of each SOURCE or of every source of the policy.

    A backup counts only once everything it needs, WAL up to its end included, is durable in the
    repository. Interrupted, it leaves nothing that counts, and the next one reuses what was stored.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import BackupRequest
    from drtool.wiring.backup import backup as carry_out

    with front.progress() as view:
        request = BackupRequest(
            sources=sources,
            is_dry_run=dry_run,
            accepts_source=accept_source,
            accepts_unread=unread,
            at_once=at_once,
        )
        outcomes = carry_out(request, policy, front.surroundings(view))
    front.show_all("backups", outcomes)
    leave(outcomes)
