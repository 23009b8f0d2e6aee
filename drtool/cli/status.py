"""`drtool status`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExample:\n  drtool status main-db --json")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.pass_obj
def status(front: Front, *, sources: tuple[str, ...]) -> None:
    """One screen: from when to when each SOURCE can be recovered, and what would be lost right now.

    Told from the repository alone: `drtool check` asks the sources themselves.

    Ends with 3 if a promise is missed, or nobody can tell that it is met; with 4 if a source cannot be
    brought back, or not to its latest moment (no usable backup, a gap); with 7 if what is stored is
    damaged. The gravest counts.
    """
    policy = front.policy
    front.open_repository()
    from drtool.model.request import StatusRequest
    from drtool.wiring.status import status as look

    with front.progress() as view:
        report = look(StatusRequest(sources), policy, front.surroundings(view))
    front.show(report)
    leave([report])
