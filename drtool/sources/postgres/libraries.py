"""Whether the libraries that a server loads at its start, or for each session, are installed here.

They are looked for as PostgreSQL does (utils/fmgr/dfmgr.c): below dynamic_library_path, or where a
name with a directory says. Nothing is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from drtool.sources.postgres.binaries import ServerBinaries

_ENDING = ".so"
# Whatever else a server was built with: this one is always there.
_ALWAYS_THERE = "plpgsql" + _ENDING
_BESIDE_BIN = ("lib", "lib/postgresql", "lib64", "lib64/pgsql", "lib/pgsql")
_LIBDIR = "$libdir"
# Settings that name libraries, and the directory of those that are named without one.
PRELOADS: Mapping[str, str] = {
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": f"{_LIBDIR}/plugins/",
}


def library_names(setting: str) -> tuple[str, ...]:
    """The names in a value of shared_preload_libraries and its like."""
    return tuple(word.strip().strip('"') for word in setting.split(",") if word.strip(' "'))


def library_directory(binaries: ServerBinaries) -> Path | None:
    """What `$libdir` means to these programs; None if it is not found."""
    installation = binaries.bin_dir.resolve().parent
    for place in _BESIDE_BIN:
        if (installation / place / _ALWAYS_THERE).is_file():
            return installation / place
    return None


def missing_libraries(
    names: Iterable[str], libdir: Path, *, search_path: str = _LIBDIR, directory: str = ""
) -> tuple[str, ...]:
    """Those of `names` that are not installed. `directory` goes before a name that has none of its own."""
    return tuple(
        name
        for name in names
        if not any(
            path.is_file()
            for path in _places(
                name if "/" in name else directory + name, libdir, search_path=search_path
            )
        )
    )


def _places(name: str, libdir: Path, *, search_path: str) -> Iterator[Path]:
    if "/" in name:
        bases = [name]
    else:
        bases = [f"{one.strip()}/{name}" for one in search_path.split(os.pathsep) if one.strip()]
    for base in bases:
        path = base.replace(_LIBDIR, str(libdir), 1) if base.startswith(_LIBDIR) else base
        yield Path(path)
        yield Path(path + _ENDING)
