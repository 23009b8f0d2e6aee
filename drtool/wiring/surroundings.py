"""What a command finds around it, given to every verb that the wiring builds."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drtool.model.progress import Emit
from drtool.policy.secrets import Redactor
from drtool.system.clock import Clock

if TYPE_CHECKING:
    from drtool.wiring.opening import Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`stop` is set when somebody asks a long run to end cleanly; `redactor` learns each secret used.

    `opening` is the repository, where a command had it opened as soon as it knew that it needs it.
    """

    environ: Mapping[str, str]
    redactor: Redactor
    emit: Emit
    clock: Clock
    stop: threading.Event
    opening: Opening | None = None
