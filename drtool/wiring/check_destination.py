"""Where a restore without --into would go, and whether it can: looked at before anybody needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drtool.errors import DestinationRefused, PolicyError
from drtool.model.checked import Look
from drtool.model.finding import Finding, Severity
from drtool.restore.destination import check_place
from drtool.system.users import RunAs, current_user
from drtool.wiring.checking import Checking
from drtool.wiring.occupied import require_unoccupied

_ANY = "TIME"


def look_at_destination(checking: Checking, user: Callable[[Path], RunAs] | None) -> Look:
    """A new directory below the policy's restore_root, and the user who would run the server, if any."""
    policy, name = checking.policy, checking.name
    root = policy.restore_root.absolute()
    place = root / f"{policy.stack}-{_ANY}" / name
    seen, findings = f"below {root}", []
    try:
        owner = current_user() if user is None else user(place)
        seen += "" if user is None else f", as user {owner.name}"
        require_unoccupied({name: place}, policy)
        check_place(place, owner)
    except (DestinationRefused, PolicyError) as error:
        seen = f"{seen}: refused"
        findings.append(
            Finding(
                severity=Severity.WARNING,
                subject=f"restore_root {root}",
                fact=f"a restore without --into would be refused: {error.message}",
                fix=f"Set `restore_root` of the policy to a directory that will do. {error.hint}",
            )
        )
    return Look(name="restores to", seen=seen, findings=tuple(findings))
