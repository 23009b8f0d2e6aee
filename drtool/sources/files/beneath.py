"""The root of a protected tree, opened once: what is below is reached from there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drtool.errors import SourceUnavailable, SourceUnsuitable


def open_root(root: Path) -> int:
    """A descriptor of the tree's root. Links on the way to it were named by the operator: followed."""
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise SourceUnsuitable(
            f"{root} is not a directory", hint="Name the directory to protect in the policy."
        ) from error
    except OSError as error:
        raise SourceUnavailable(
            f"directory {root} cannot be opened: {error.strerror}",
            hint="See that its disk is mounted and that this user may read it, then try again.",
        ) from error


@contextmanager
def open_tree(root: Path) -> Iterator[int]:
    """As `open_root`; closed at the end of the block."""
    descriptor = open_root(root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
