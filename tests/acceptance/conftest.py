"""The machines that the acceptance tests happen on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.acceptance.site import Site
from tests.servers.postgres import server_directory


@pytest.fixture
def site() -> Iterator[Site]:
    """A machine of the test's own, with nothing on it yet."""
    root = server_directory()
    yield Site(root=root)
    shutil.rmtree(root, ignore_errors=True)
