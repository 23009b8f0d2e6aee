"""Names as SQL takes them, in statements and in what a person shall type."""

from __future__ import annotations


def raw(column: str) -> str:
    """An expression for the bytes of a name. It may come from a database of another encoding, and neither
    text nor convert_to() then gives it: both check its encoding, and fail.
    """
    return f"replace({column}::text, '\\', '\\\\')::bytea"


def quoted(name: str) -> str:
    """A name in double quotes, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
