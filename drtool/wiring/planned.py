"""A source's restore, decided and not begun: what every kind of source offers to the restore of a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from drtool.model.outcome import RestoreOutcome, RestorePreview
from drtool.model.progress import Emit

if TYPE_CHECKING:
    from drtool.restore.copy_ports import CopyPorts

# Runs the restore; events go to the emit that is passed in.
Runner = Callable[[Emit], RestoreOutcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One source, planned: nothing was written.

    `earliest` and `latest` bound the moments it can be brought back to; None is "not known", or for
    `latest` also "no moment is too late" (a snapshot of files stands until the next one).
    `preview` shows the plan; `prepare` looks whether a place will do, raises what speaks against
    it, and gives what carries the restore out; its servers get ports that it is given.
    """

    source: str
    earliest: datetime | None
    latest: datetime | None
    preview: Callable[[Path], RestorePreview]
    prepare: Callable[[Path, CopyPorts], Runner]
