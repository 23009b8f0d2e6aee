"""Where the fixtures come from: each kind of server has a module of its own in `tests/servers/`."""

from __future__ import annotations

import signal

import pytest

from tests.servers.new_cluster import forget_clusters

# Tests of a file stay with one worker. What takes long begins first, so that no worker is left alone with it.
_LONG = (
    "restore/test_crash.py",
    "acceptance",
    "restore",
    "contract",
    "mirror",
    "archiving",
    "backup",
)

pytest_plugins = ["tests.servers.object_stores", "tests.servers.postgres", "tests.servers.redis"]


def pytest_configure(config: pytest.Config) -> None:
    """An interrupt interrupts: a shell that starts `make test` with & has it ignored, and so would we."""
    del config
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item.nodeid.removeprefix("tests/")))


def _turn(name: str) -> int:
    """Which of `_LONG` a test belongs to, or none of them."""
    return next((turn for turn, long in enumerate(_LONG) if name.startswith(long)), len(_LONG))


def pytest_sessionfinish() -> None:
    forget_clusters()
