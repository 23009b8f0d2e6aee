"""The nearest word that would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, valid: Iterable[str]) -> str:
    """`: did you mean 'flush'?`, or nothing when no valid word is near."""
    choices = list(valid)
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f": did you mean {by_lower[found[0]]!r}?" if found else ""
