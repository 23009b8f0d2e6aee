"""`drtool policy check|schema`."""

from __future__ import annotations

import click

from drtool.cli.front import Front
from drtool.cli.lazy import Command, Lazy, LazyGroup, global_options
from drtool.cli.verdicts import leave


@click.command(
    cls=Command,
    epilog="\b\nExample:\n  drtool policy check --policy policies/stefano.yaml",
)
@click.pass_obj
def check(front: Front) -> None:
    """Check the policy, and say for each source whether its schedule can keep its promise.

    Ends with 2 if the policy is invalid, with 3 if a promise cannot be kept or nobody can tell.
    """
    from drtool.config.promises import judge_policy

    report = judge_policy(front.policy, str(front.policy_file))
    front.show(report)
    leave([report])


@click.command(
    cls=Command,
    epilog="\b\nExample:\n  drtool policy schema > policies/.schema.json",
)
@click.pass_obj
def schema(front: Front) -> None:
    """Print the JSON Schema of policy files, for editors."""
    from drtool.config.schema import policy_schema

    front.print_document(policy_schema())


policy = LazyGroup(
    name="policy",
    lazy={
        "check": Lazy("drtool.cli.policy:check", "Check it, and whether its promises can be kept."),
        "schema": Lazy("drtool.cli.policy:schema", "Print its JSON Schema, for editors."),
    },
    params=global_options(),
    help="Check the policy, print its schema.",
    epilog="\b\nExample:\n  drtool policy check",
)
