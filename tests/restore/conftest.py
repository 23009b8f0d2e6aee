"""What restores of every kind are tested with, unless a file has its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.repository.repository import Repository
from tests.backup.taking import new_repository
from tests.servers.postgres import server_directory


@pytest.fixture
def repository() -> Repository:
    """An empty one, in memory."""
    return new_repository()


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that the servers' user owns."""
    directory = server_directory("drtool-restore-")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
