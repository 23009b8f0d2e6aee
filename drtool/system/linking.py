"""Names that are made or replaced below an open directory, never through a symbolic link."""

from __future__ import annotations

import os


def link_at(source: bytes, name: bytes, *, source_directory: int, directory: int) -> None:
    """Make `name` in `directory` another name of the file `source`; OSError if `name` exists."""
    os.link(source, name, src_dir_fd=source_directory, dst_dir_fd=directory, follow_symlinks=False)


def replace_at(source: bytes, name: bytes, *, directory: int) -> None:
    """Give `source` the name `name` in the same directory, in place of whatever file had it."""
    os.replace(source, name, src_dir_fd=directory, dst_dir_fd=directory)
