"""Groups that import a command only when it is run: `drtool --help` must start within 150 ms."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from drtool.cli.front import Front


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is found (`module:name`), and the words `--help` of its group shows."""

    place: str
    summary: str

    def load(self) -> click.Command:
        module, _, name = self.place.partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.place} is not a command")
        return command


def _keep(name: str) -> Callable[[click.Context, click.Parameter, object], None]:
    """Global options may stand before or after the command; where one is given, it counts."""

    def keep(context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value is not None and value is not False and value != 0:
            setattr(context.find_root().ensure_object(Front), name, value)

    return keep


def global_options() -> list[click.Parameter]:
    """Options that every command takes."""
    return [
        click.Option(
            ["--policy"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            callback=_keep("policy_path"),
            expose_value=False,
            help="The policy; else DRTOOL_POLICY, else the single file in ./policies.",
        ),
        click.Option(
            ["--json", "wants_json"],
            is_flag=True,
            callback=_keep("wants_json"),
            expose_value=False,
            help="Answer with one JSON object; progress as JSON lines on standard error.",
        ),
        click.Option(
            ["--no-color", "no_color"],
            is_flag=True,
            callback=_keep("no_color"),
            expose_value=False,
            help="No colours; NO_COLOR in the environment says the same.",
        ),
        click.Option(
            ["-q", "--quiet", "quiet"],
            is_flag=True,
            callback=_keep("is_quiet"),
            expose_value=False,
            help="No progress, only warnings.",
        ),
        click.Option(
            ["-v", "--verbose", "verbose"],
            count=True,
            callback=_keep("verbosity"),
            expose_value=False,
            help="With an error, show where it comes from.",
        ),
    ]


class Command(click.Command):
    """A command that takes the global options too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not any(parameter.name == "wants_json" for parameter in self.params):
            self.params += global_options()
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> object:
        """Carry it out. What can also be tried dry changes something, unless it is tried dry."""
        for parameter in self.params:
            if "--dry-run" in parameter.opts and parameter.name is not None:
                ctx.ensure_object(Front).changes_something = not ctx.params.get(parameter.name)
        return super().invoke(ctx)


class LazyGroup(click.Group):
    """A group whose commands are in `lazy`, by name, in the order of `--help`."""

    def __init__(
        self, *, lazy: Mapping[str, Lazy], name: str, params: list[click.Parameter], **rest: object
    ) -> None:
        super().__init__(name=name, params=params, **rest)  # type: ignore[arg-type]  # click's own arguments
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.lazy)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        found = self.lazy.get(cmd_name)
        return None if found is None else found.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in self.lazy and not name.startswith("-"):
            from drtool.config.nearest import nearest

            near = nearest(name, self.lazy) or f": there are {', '.join(self.lazy)}"
            ctx.fail(f"no command {name!r}{near}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self.lazy.items()])
