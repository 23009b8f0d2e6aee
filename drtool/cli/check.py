"""`drtool check`."""

from __future__ import annotations

from pathlib import Path

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave

_EXAMPLES = """\b
Examples:
  drtool check
  drtool check main-db --json
  drtool check --changes /var/lib/drtool/last-check.json"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--changes",
    "record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Say only what changed since the check that wrote FILE, and write it anew.",
)
@click.pass_obj
def check(front: Front, *, sources: tuple[str, ...], record: Path | None) -> None:
    """Look whether each SOURCE can be protected now, and is: its servers, its log, its backups, its
    mirror, and the repository. Says what was looked at, and each finding with its fix.

    Ends with 3 if a finding is a problem, or a promise is missed or nobody can tell that it is met, as
    where no backup was ever taken; with 4 if a source cannot be brought back although there are backups,
    or not to its latest moment (none is usable, a gap);
    with 2, 5, 6 or 7 if something could not be looked at: a secret, a source, the repository, damaged
    content. The gravest counts.

    With --changes, as for a job that runs every few minutes: what is new, what is gone, and in one line
    what is as it was. The exit code is that of all that was found, new or not.
    """
    from drtool.model.request import CheckRequest
    from drtool.wiring.check import check as look

    policy = front.policy
    if record is None:
        with front.progress() as view:
            report = look(CheckRequest(sources), policy, front.surroundings(view))
        front.show(report)
        leave([report])
        return
    from drtool.wiring.check_record import changes_since, read_record, write_record

    before = read_record(record)
    with front.progress() as view:
        report = look(CheckRequest(sources), policy, front.surroundings(view))
    changes, found = changes_since(before, report, sources, redactor=front.redactor)
    front.show(changes)
    write_record(record, found)  # after it was told: what nobody read is told again
    leave([report])
