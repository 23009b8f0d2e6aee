"""`drtool init`."""

from __future__ import annotations

from pathlib import Path

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command
from drtool.cli.verdicts import leave


@click.command(
    cls=Command,
    epilog="\b\nExample:\n  drtool init policies/shop.yaml --stack shop --timezone Europe/Warsaw",
)
@click.argument(
    "path", type=click.Path(path_type=Path), default=Path("policies/main.yaml"), metavar="[FILE]"
)
@click.option("--stack", default="main", show_default=True, help="The name of what is protected.")
@click.option(
    "--timezone",
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="IANA zone in which a time without an offset is read.",
)
@click.option(
    "--repository",
    metavar="URL",
    help="Where backups go: file:///DIRECTORY or s3://BUCKET/PREFIX[?endpoint=https://HOST:PORT];"
    " else a local directory.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.pass_obj
def init(
    front: Front, *, path: Path, stack: str, timezone: str, repository: str | None, dry_run: bool
) -> None:
    """Probe servers and write a starter policy.

    Every variable NAME_DSN of the environment becomes a source (MAIN_DB_DSN: main-db), and its
    server is asked whether it can be protected. That of a PostgreSQL is a libpq connection string,
    postgresql://USER@HOST/DATABASE; that of a Redis is redis://[USER:PASSWORD@]HOST[:PORT], with TLS
    rediss://. Never writes over a policy.
    """
    from drtool.model.request import InitRequest
    from drtool.wiring.init import run_init

    request = InitRequest(
        path=path, stack=stack, timezone=timezone, repository=repository, is_dry_run=dry_run
    )
    with front.progress() as view:
        sheet = run_init(request, front.surroundings(view))
    front.show(sheet)
    leave([sheet])
