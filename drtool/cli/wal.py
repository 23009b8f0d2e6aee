"""`drtool wal receive|push|fetch|status|gaps`; `wal slot` has a module of its own."""

from __future__ import annotations

from pathlib import Path

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command, Lazy, LazyGroup, global_options
from drtool.cli.stopping import until_told_to_stop
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExample:\n  drtool wal receive main-db")
@click.argument("source")
@click.option("--dry-run", is_flag=True, help="Say where streaming would begin, and do nothing.")
@click.option(
    "--accept-source",
    "--accept-new-system",
    "accept_source",
    is_flag=True,
    help="The source is a new cluster under its old name, as after pg_upgrade, or of another stack, or was"
    " put back from a copy and goes on from there; of two servers under one name, this one is production.",
)
@click.pass_obj
def receive(front: Front, *, source: str, dry_run: bool, accept_source: bool) -> None:
    """Stream WAL of SOURCE into the repository until told to stop.

    The first SIGTERM or Ctrl-C makes what has arrived durable and ends cleanly; the second ends at
    once.
    """
    with until_told_to_stop(front, "wal-receive", f"the receiver of {source}"):
        policy = front.policy
        front.open_repository()
        from drtool.model.request import WalReceive
        from drtool.wiring.wal import receive as carry_out

        front.ends_cleanly = True
        with front.progress() as view:
            request = WalReceive(source, dry_run, accept_source)
            around = front.surroundings(view)
            sheet = carry_out(request, policy, around, policy_file=front.policy_file)
        front.show(sheet)
        leave([sheet])


@click.command(
    cls=Command,
    epilog="\b\nExample, by hand:\n  drtool wal push main-db pg_wal/000000010000000000000003\n\n\b\n"
    "In postgresql.conf, while `drtool wal receive main-db` runs with `wal: {mode: push}`:\n"
    "  archive_command = 'drtool-wal push --source main-db %p'",
)
@click.argument("source")
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_obj
def push(front: Front, *, source: str, path: Path) -> None:
    """Hand one segment of SOURCE over by hand; ends with 0 only once it is durable in the repository.

    It starts Python and opens the repository each time. For archive_command use `drtool-wal push`,
    seven times as fast: it hands the segment to a receiver that runs.

    Any failure ends with a code from 1 to 125, so that PostgreSQL counts it and tries again.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import WalPush
    from drtool.wiring.wal import push as carry_out

    with front.progress() as view:
        carry_out(WalPush(source, path), policy, front.surroundings(view))


@click.command(
    cls=Command,
    epilog="\b\nExample, in postgresql.conf:\n  restore_command = 'drtool wal fetch main-db %f %p'",
)
@click.argument("source")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_obj
def fetch(front: Front, *, source: str, name: str, path: Path) -> None:
    """Put the file NAME of SOURCE's WAL at PATH.

    Ends with 1 if the repository surely has no such file, and with 255 if it could not be asked, so
    that PostgreSQL never mistakes an outage for the end of WAL.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import WalFetch
    from drtool.wiring.wal import fetch as carry_out

    with front.progress() as view:
        carry_out(WalFetch(source, name, path), policy, front.surroundings(view))


@click.command(cls=Command, epilog="\b\nExample:\n  drtool wal status main-db --json")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.pass_obj
def status(front: Front, *, sources: tuple[str, ...]) -> None:
    """What the log of each SOURCE holds, and how its receiver does."""
    policy = front.policy
    front.open_repository()
    from drtool.model.request import WalStatus
    from drtool.wiring.wal import status as look

    with front.progress() as view:
        sheet = look(WalStatus(sources), policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


@click.command(cls=Command, epilog="\b\nExample:\n  drtool wal gaps main-db")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.pass_obj
def gaps(front: Front, *, sources: tuple[str, ...]) -> None:
    """What the log of each SOURCE lacks: no moment inside a gap can be returned to.

    Ends with 7 if there is a gap.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import WalGaps
    from drtool.wiring.wal import gaps as look

    with front.progress() as view:
        sheet = look(WalGaps(sources), policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


wal = LazyGroup(
    name="wal",
    lazy={
        "receive": Lazy("drtool.cli.wal:receive", "Stream WAL into the repository."),
        "push": Lazy(
            "drtool.cli.wal:push", "Hand one segment over (archive_command: drtool-wal push)."
        ),
        "fetch": Lazy("drtool.cli.wal:fetch", "Bring one file back (restore_command)."),
        "status": Lazy("drtool.cli.wal:status", "What the log holds."),
        "slot": Lazy("drtool.cli.wal_slot:slot", "The replication slot: show it, drop it."),
        "gaps": Lazy("drtool.cli.wal:gaps", "What the log lacks."),
    },
    params=global_options(),
    help="Receive, push, fetch and inspect WAL.",
    epilog="\b\nExample:\n  drtool wal receive main-db",
)
