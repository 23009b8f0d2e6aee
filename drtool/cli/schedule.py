"""`drtool schedule run|list`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command, Lazy, LazyGroup, global_options
from drtool.cli.stopping import until_told_to_stop
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExample:\n  drtool schedule run")
@click.option(
    "--at-once",
    type=click.IntRange(1, 64),
    default=3,
    show_default=True,
    help="Backups and mirrors that run at a time.",
)
@click.pass_obj
def run(front: Front, *, at_once: int) -> None:
    """Take backups, bring mirrors up to date and check when the policy says so, and keep the receivers
    of its logs running, until told to stop. This is what a container runs.

    What was due while nothing ran is done at once; what failed for a passing reason is tried again. A
    second scheduler of the same stack waits until the first is gone. The first SIGTERM ends all
    cleanly, within 45 s.
    """
    with until_told_to_stop(front, "schedule-run", "the scheduler"):
        policy = front.policy
        from drtool.wiring.schedule import run as carry_out

        front.ends_cleanly = True
        with front.progress() as view:
            sheet = carry_out(policy, front.policy_file, front.surroundings(view), at_once=at_once)
        front.show(sheet)


@click.command(name="list", cls=Command, epilog="\b\nExample:\n  drtool schedule list --json")
@click.pass_obj
def listed(front: Front) -> None:
    """What is due when, in the policy's time zone, and what always runs."""
    policy = front.policy
    from drtool.wiring.schedule import listed as look

    with front.progress() as view:
        sheet = look(policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


schedule = LazyGroup(
    name="schedule",
    lazy={
        "run": Lazy("drtool.cli.schedule:run", "Do what is due, until told to stop."),
        "list": Lazy("drtool.cli.schedule:listed", "What is due when."),
    },
    params=global_options(),
    help="Do what the policy's schedule says, and see what is due.",
    epilog="\b\nExample:\n  drtool schedule run",
)
