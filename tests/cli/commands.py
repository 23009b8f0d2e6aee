"""Every command of drtool, by its words on the command line."""

from __future__ import annotations

import click

from drtool.cli.lazy import LazyGroup
from drtool.cli.main import root


def every_command() -> dict[str, click.Command]:
    """`"repository key add"` to its command; the groups too, and drtool itself as `""`."""
    found: dict[str, click.Command] = {}

    def walk(words: str, command: click.Command) -> None:
        found[words] = command
        if isinstance(command, LazyGroup):
            for name, lazy in command.lazy.items():
                walk(f"{words} {name}".strip(), lazy.load())

    walk("", root)
    return found
