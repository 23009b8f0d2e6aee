"""Programs that root finds or is told to run: with whose rights they are asked what they are, if at all."""

from __future__ import annotations

import os
from pathlib import Path

from drtool.errors import NotRecoverable
from drtool.system.changeable import changeable_by_others
from drtool.system.users import RunAs, user_of


def passed_over_for(program: Path) -> str | None:
    """Why a program that nobody named is not run: others may change it. None if it may be run, or is
    not there.
    """
    try:
        fault = changeable_by_others(program)
    except OSError:
        return None
    if fault is None or not os.access(program, os.X_OK):
        return None
    return f"{program} is passed over: {fault.place} {fault.why}; bin_dir of the policy can name it"


def named_program_user(program: Path) -> RunAs | None:
    """With whose rights a program that the policy names is asked what it is; None: with ours.

    An installation may belong to a user of its own: root runs it as that user. NotRecoverable if
    more than its owner may change it.
    """
    try:
        fault = changeable_by_others(program)
    except OSError:
        return None
    if fault is None:
        return None
    if fault.owner is None:
        raise NotRecoverable(
            f"program {program} is not run: {fault.place} {fault.why}",
            hint=f"Let nobody but its owner write there: chmod go-w {fault.place}",
        )
    return user_of(fault.place) if os.geteuid() == 0 else None
