"""Whether a data directory starts with its own configuration here: PostgreSQL's own words, no start.

`postgres -C` reads every configuration file, loads the preload libraries and the certificates, works
out the shared memory, and ends before it opens a socket, starts a process or reads data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drtool.sources.postgres.binaries import ServerBinaries
from drtool.system.network_namespace import without_network
from drtool.system.process import Finished, run_program
from drtool.system.users import RunAs

_SECONDS = 60.0
# Outrank the files, so that what is told comes to us, in English and without their prefix.
_TELL_US = {
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "",
    "log_error_verbosity": "default",
    "lc_messages": "C",
}
_LEVEL = re.compile(r"(?:LOG|WARNING|ERROR|FATAL|PANIC|DETAIL|HINT):  ")
_PARAMETER = re.compile(r'parameter "([^"]+)"')
_PLACE = re.compile(r'in file "([^"]+)" line (\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigVerdict:
    """What PostgreSQL said. `parameters` are those that it complains of by name, `places` the lines
    (file, counted from 1); `told` is all of it, for people.
    """

    starts: bool
    shared_memory_mib: int | None = None
    parameters: frozenset[str] = frozenset()
    places: frozenset[tuple[str, int]] = frozenset()
    told: str = ""


def check_configuration(
    data_directory: Path,
    binaries: ServerBinaries,
    *,
    run_as: RunAs,
    settings: Mapping[str, str] | None = None,
) -> ConfigVerdict:
    """Ask. No server may run on `data_directory`; `settings` outrank its files.

    Library code runs with the rights of `run_as`, as it would at a start. ProgramFailed if PostgreSQL
    does not answer.
    """
    done = _ask(
        data_directory, binaries, "shared_memory_size", run_as=run_as, settings=settings or {}
    )
    last = done.output.strip().splitlines()[-1:] or [""]
    if done.code == 0 and last[0].isdigit():
        return ConfigVerdict(starts=True, shared_memory_mib=int(last[0]))
    told = done.errors
    return ConfigVerdict(
        starts=False,
        parameters=frozenset(name.lower() for name in _PARAMETER.findall(told)),
        places=frozenset((path, int(line)) for path, line in _PLACE.findall(told)),
        told=" ".join(_LEVEL.sub("", told).split())[:500],
    )


def setting_in_force(
    name: str, data_directory: Path, binaries: ServerBinaries, *, run_as: RunAs
) -> str | None:
    """The value that a start would have; None if PostgreSQL does not tell."""
    done = _ask(data_directory, binaries, name, run_as=run_as, settings={})
    return done.output.rstrip("\n") if done.code == 0 else None


def _ask(
    data_directory: Path,
    binaries: ServerBinaries,
    name: str,
    *,
    run_as: RunAs,
    settings: Mapping[str, str],
) -> Finished:
    enclosed = without_network(run_as)
    command = [*enclosed.prefix, str(binaries.program("postgres"))]
    command += ["-C", name, "-D", str(data_directory)]
    for setting, value in {**settings, **_TELL_US}.items():
        command += ["-c", f"{setting}={value}"]
    return run_program(
        command, timeout_seconds=_SECONDS, run_as=enclosed.run_as, directory=data_directory
    )
