"""The command lines of a restored copy: how it is started and stopped, or a tree put to use."""

from __future__ import annotations

from drtool.model.outcome import RestoreOutcome


def usage_lines(outcome: RestoreOutcome) -> list[str]:
    """Each command on a line of its own below its heading, to be pasted as it is."""
    heading = "Use it so:" if outcome.kind == "files" else "Start it with:"
    lines: list[str] = []
    for title, commands in (
        (heading, outcome.how_to_start),
        ("Stop it with:", outcome.how_to_stop),
    ):
        lines += ["", title, *(f"  {command}" for command in commands)] if commands else []
    return lines


def rescue_pairs(sha256: str) -> list[tuple[str, str]]:
    """The digest of the repository's rescue program, which is compared before it is run; none if unknown."""
    return [("rescue.py", f"SHA-256 {sha256}")] if sha256 else []
