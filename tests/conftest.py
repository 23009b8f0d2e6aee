"""Where the fixtures come from: each kind of server has a module of its own in `tests/servers/`."""

from __future__ import annotations

import signal

import pytest

pytest_plugins = ["tests.servers.object_stores", "tests.servers.postgres", "tests.servers.redis"]


def pytest_configure(config: pytest.Config) -> None:
    """An interrupt interrupts: a shell that starts `make test` with & has it ignored, and so would we."""
    del config
    signal.signal(signal.SIGINT, signal.default_int_handler)
