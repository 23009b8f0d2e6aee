"""Where the fixtures come from: each kind of server has a module of its own in `tests/servers/`."""

from __future__ import annotations

pytest_plugins = ["tests.servers.object_stores", "tests.servers.postgres", "tests.servers.redis"]
