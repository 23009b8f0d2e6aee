"""`drtool wal slot show|drop`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command, Lazy, LazyGroup, global_options
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExample:\n  drtool wal slot show main-db")
@click.argument("source")
@click.pass_obj
def show(front: Front, *, source: str) -> None:
    """How much WAL the replication slot of SOURCE keeps on the server, and when its limit is reached."""
    policy = front.policy
    front.open_repository()
    from drtool.model.request import WalSlot
    from drtool.wiring.slot import show as look

    with front.progress() as view:
        sheet = look(WalSlot(source), policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


@click.command(cls=Command, epilog="\b\nExample:\n  drtool wal slot drop main-db --dry-run")
@click.argument("source")
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and do nothing.")
@click.pass_obj
def drop(front: Front, *, source: str, dry_run: bool) -> None:
    """Drop the replication slot of SOURCE, for good or to free the server's disk.

    The server then removes WAL that nobody has received at its next checkpoint: what is lost so is a
    gap. A receiver that is started later makes the slot again, unless the policy says `slot: none`.
    """
    policy = front.policy
    from drtool.model.request import WalSlot
    from drtool.wiring.slot import drop as carry_out

    with front.progress() as view:
        sheet = carry_out(WalSlot(source, dry_run), policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


slot = LazyGroup(
    name="slot",
    lazy={
        "show": Lazy("drtool.cli.wal_slot:show", "How much WAL it keeps."),
        "drop": Lazy("drtool.cli.wal_slot:drop", "Drop it: the server keeps no WAL for us."),
    },
    params=global_options(),
    help="Show or drop the replication slot that keeps WAL for the receiver.",
    epilog="\b\nExample:\n  drtool wal slot show main-db",
)
