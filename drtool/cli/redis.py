"""`drtool redis receive|status`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command, Lazy, LazyGroup, global_options
from drtool.cli.stopping import until_told_to_stop
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExample:\n  drtool redis receive cache")
@click.argument("source")
@click.option("--dry-run", is_flag=True, help="Say which servers would be joined; do nothing.")
@click.option(
    "--accept-source",
    is_flag=True,
    help="The backups under this name are its own, whatever their stack and addresses.",
)
@click.pass_obj
def receive(front: Front, *, source: str, dry_run: bool, accept_source: bool) -> None:
    """Archive the replication stream of SOURCE, all its shards, until told to stop. Where Redis no
    longer has what comes next, the gap is recorded and a new snapshot taken at once.

    The first SIGTERM or Ctrl-C makes what has arrived durable and ends cleanly; the second ends at
    once.
    """
    with until_told_to_stop(front, "redis-receive", f"the receiver of {source}"):
        policy = front.policy
        front.open_repository()
        from drtool.model.request import RedisReceive
        from drtool.wiring.redis_stream import receive as carry_out

        front.ends_cleanly = True
        with front.progress() as view:
            sheet = carry_out(
                RedisReceive(source, dry_run, accept_source),
                policy,
                front.surroundings(view),
                policy_file=front.policy_file,
            )
        front.show(sheet)
        leave([sheet])


@click.command(cls=Command, epilog="\b\nExample:\n  drtool redis status cache --json")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.pass_obj
def status(front: Front, *, sources: tuple[str, ...]) -> None:
    """What is archived of each SOURCE's stream, and how its receiver does.

    Ends with 7 if the newest snapshot cannot be carried on from by what is archived now.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import RedisStatus
    from drtool.wiring.redis_stream import status as look

    with front.progress() as view:
        sheet = look(RedisStatus(sources), policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


redis = LazyGroup(
    name="redis",
    lazy={
        "receive": Lazy("drtool.cli.redis:receive", "Archive the replication stream."),
        "status": Lazy("drtool.cli.redis:status", "What is archived of it."),
    },
    params=global_options(),
    help="Archive the stream of a Redis, and see how it stands.",
    epilog="\b\nExample:\n  drtool redis receive cache",
)
