"""`drtool repository init|info|key`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command, Lazy, LazyGroup, global_options
from drtool.cli.verdicts import leave
from drtool.model.request import (
    KeyAdd,
    KeyList,
    KeyRemove,
    KeyRotate,
    RepositoryInit,
    RepositoryInspect,
)

_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")

RepositoryRequest = RepositoryInit | RepositoryInspect | KeyList | KeyAdd | KeyRemove | KeyRotate


def _answer(front: Front, request: RepositoryRequest) -> None:
    policy = front.policy
    if not isinstance(request, RepositoryInit):
        front.open_repository()
    from drtool.wiring.repository import run_repository

    with front.progress() as view:
        sheet = run_repository(request, policy, front.surroundings(view))
    front.show(sheet)
    leave([sheet])


@click.command(cls=Command, epilog="\b\nExample:\n  DRTOOL_KEY=... drtool repository init")
@_dry_run
@click.pass_obj
def init(front: Front, *, dry_run: bool) -> None:
    """Create the repository, after a look at what its store can do.

    Refuses to touch a repository that is there, and says what the store does not honour.
    """
    _answer(front, RepositoryInit(dry_run))


@click.command(cls=Command, epilog="\b\nExample:\n  drtool repository info --json")
@click.pass_obj
def info(front: Front) -> None:
    """What the repository is, what it holds, and what its store can do."""
    _answer(front, RepositoryInspect())


@click.command("list", cls=Command, epilog="\b\nExample:\n  drtool repository key list")
@click.pass_obj
def list_keys(front: Front) -> None:
    """The slots that open the repository."""
    _answer(front, KeyList())


@click.command(
    cls=Command, epilog="\b\nExample:\n  drtool repository key add file:/etc/drtool/second.key"
)
@click.argument("reference", metavar="env:NAME|file:PATH")
@_dry_run
@click.pass_obj
def add(front: Front, *, reference: str, dry_run: bool) -> None:
    """Let another passphrase or key file open the repository too."""
    _answer(front, KeyAdd(reference, dry_run))


@click.command(cls=Command, epilog="\b\nExample:\n  drtool repository key remove 26f30f400075a930")
@click.argument("slot", metavar="SLOT")
@_dry_run
@click.pass_obj
def remove(front: Front, *, slot: str, dry_run: bool) -> None:
    """Take a SLOT of `drtool repository key list` away, once another one has been opened."""
    _answer(front, KeyRemove(slot, dry_run))


@click.command(cls=Command, epilog="\b\nExample:\n  drtool repository key rotate")
@_dry_run
@click.pass_obj
def rotate(front: Front, *, dry_run: bool) -> None:
    """Seal under a new master key from now on; what is stored stays readable."""
    _answer(front, KeyRotate(dry_run))


key = LazyGroup(
    name="key",
    lazy={
        "list": Lazy("drtool.cli.repository:list_keys", "The slots that open it."),
        "add": Lazy("drtool.cli.repository:add", "Let another key open it too."),
        "remove": Lazy("drtool.cli.repository:remove", "Take a slot away."),
        "rotate": Lazy("drtool.cli.repository:rotate", "Seal under a new master key."),
    },
    params=global_options(),
    help="The keys that open the repository.",
    epilog="\b\nExample:\n  drtool repository key list",
)

repository = LazyGroup(
    name="repository",
    lazy={
        "init": Lazy("drtool.cli.repository:init", "Create it."),
        "info": Lazy("drtool.cli.repository:info", "What it is, and what its store can do."),
        "key": Lazy("drtool.cli.repository:key", "The keys that open it."),
    },
    params=global_options(),
    help="Create, describe and rekey the repository.",
    epilog="\b\nExample:\n  drtool repository init",
)
