"""Names as SQL takes them, in statements and in what a person shall type."""

from __future__ import annotations


def quoted(name: str) -> str:
    """A name in double quotes, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
