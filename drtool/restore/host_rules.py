"""Who may connect to a copy: the source's pg_hba.conf and pg_ident.conf, or drtool's closed ones.

The source's are kept if they are whole inside the copy and this PostgreSQL can load them; else
PostgreSQL would refuse to start, or a file that the source did not use would open the copy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from drtool.model.finding import Finding, Severity
from drtool.restore.destination import Destination
from drtool.restore.source_config import SOURCE_ENDING
from drtool.sources.postgres.binaries import ServerBinaries

HBA, IDENT = "pg_hba.conf", "pg_ident.conf"
RULE_FILES = {"hba_file": HBA, "ident_file": IDENT}
_MAP = "drtool"
_LARGEST_BYTES = 4 << 20
_TOKEN = re.compile(r'"[^"]*"|[^\s,"]+')
# Methods that a build may lack, and the library that one which has them is linked with.
_LINKED = {"ldap": b"libldap", "pam": b"libpam", "gss": b"libgssapi"}


def closed_rules(destination: Destination, *, role: str) -> dict[str, str]:
    """Rules for the copy's owner alone, who may be the bootstrap superuser `role`, over its socket."""
    owner = destination.owner.name
    header = (
        "# Written by drtool: the source's are not in the copy, or do not load on this machine.\n"
    )
    return {
        HBA: f"{header}local all {_quoted(role)} peer map={_MAP}\nlocal all all peer\n",
        IDENT: f"{header}{_MAP} {_quoted(owner)} {_quoted(role)}\n",
    }


def close_rules(
    destination: Destination, binaries: ServerBinaries, *, role: str, unused: Collection[str]
) -> tuple[Finding, ...]:
    """Replace both files if one cannot be kept; the source's stay beside them. Durable.

    `unused` are those of the two that the source did not use, because its settings named others.
    """
    reason = next(_reasons(destination, binaries, unused), None)
    if reason is None:
        return ()
    name, fact = reason
    with destination.open() as data:
        for file, content in closed_rules(destination, role=role).items():
            data.replace(file + SOURCE_ENDING, data.read(file) or b"")
            data.replace(file, content.encode())
    fix = f"Look through {HBA}{SOURCE_ENDING} and bring along what it needs, before production."
    return (
        Finding(
            severity=Severity.WARNING,
            subject=name,
            fact=f"{fact}; the copy lets nobody in but its owner, over its socket",
            fix=fix,
        ),
    )


def _reasons(
    destination: Destination, binaries: ServerBinaries, unused: Collection[str]
) -> Iterator[tuple[str, str]]:
    data = destination.data
    for name in RULE_FILES.values():
        if name in unused:
            yield name, "the source used another file, which is not in the copy"
        for line in _lines(destination, name):
            tokens = [token.strip('"') for token in _TOKEN.findall(line)]
            for path in _files_in(tokens):
                place = Path(os.path.realpath(data / path))
                if not place.is_relative_to(os.path.realpath(data)) or not place.exists():
                    yield name, f"it needs {path}, which is not in the copy"
            for method in sorted(_LINKED.keys() & set(tokens[1:])):
                if name == HBA and not _is_linked(binaries, _LINKED[method]):
                    yield name, f"it asks for {method}, which this PostgreSQL was built without"


def _files_in(tokens: list[str]) -> Iterator[str]:
    if tokens and tokens[0] in ("include", "include_if_exists", "include_dir"):
        yield from tokens[1:2]
    yield from (token[1:] for token in tokens if token.startswith("@") and len(token) > 1)


def _lines(destination: Destination, name: str) -> list[str]:
    with destination.open() as data:
        text = os.fsdecode(data.read(name, most=_LARGEST_BYTES) or b"")
    return [line for line in text.split("\n") if not line.lstrip().startswith("#")]


def _is_linked(binaries: ServerBinaries, library: bytes) -> bool:
    """Whether the server's program names that library; the dynamic section holds it as text."""
    return library in binaries.program("postgres").read_bytes()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
