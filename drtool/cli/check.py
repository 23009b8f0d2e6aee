"""`drtool check`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave


@click.command(cls=Command, epilog="\b\nExamples:\n  drtool check\n  drtool check main-db --json")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.pass_obj
def check(front: Front, *, sources: tuple[str, ...]) -> None:
    """Look whether each SOURCE can be protected now, and is: its servers, its log, its backups, its
    mirror, and the repository. Says what was looked at, and each finding with its fix.

    Ends with 3 if a finding is a problem, or a promise is missed or nobody can tell that it is met;
    with 5, 6 or 7 if something could not be looked at: a source, the repository, damaged content.
    The gravest counts.
    """
    from drtool.model.request import CheckRequest
    from drtool.wiring.check import check as look

    policy = front.policy
    with front.progress() as view:
        report = look(CheckRequest(sources), policy, front.surroundings(view))
    front.show(report)
    leave([report])
