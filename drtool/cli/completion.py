"""`drtool completion`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command


@click.command(
    cls=Command,
    epilog=(
        "\b\nExamples:\n"
        "  drtool completion bash > /etc/bash_completion.d/drtool\n"
        "  drtool completion zsh > ~/.zfunc/_drtool\n"
        "  drtool completion fish > ~/.config/fish/completions/drtool.fish"
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(front: Front, *, shell: str) -> None:
    """Print the script that completes drtool's commands and options in SHELL."""
    from click.shell_completion import get_completion_class

    from drtool.cli.main import COMPLETION_VARIABLE, root

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    front.print_text(kind(root, {}, "drtool", COMPLETION_VARIABLE).source())
