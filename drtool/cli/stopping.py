"""Commands that run until they are told to stop: told so before they have begun, they end as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drtool.cli.front import Front
from drtool.errors import Interrupted


@contextmanager
def until_told_to_stop(front: Front, kind: str, what: str) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C in the block ends it with 0, at whatever step it comes.

    Where the steps before the work itself are broken off for it, the answer is a sheet of `kind` that says
    so of `what`. The second ends the run at once, as interrupted.
    """
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        if front.signals_to_stop != 1:
            raise
        from drtool.model.outcome import Fact, FactSheet

        began = Fact(name="began", value=False)
        front.show(FactSheet(kind=kind, title=f"Told to stop before {what} began", facts=(began,)))
