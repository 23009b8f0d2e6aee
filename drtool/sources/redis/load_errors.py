"""Commands of an append-only file that a server answered with an error while it loaded, from its log.

A server that loads ignores the answers: what was refused is missing, and nothing else tells. INFO counts
errors of clients, and of what runs inside scripts, as well; the log names those of the file alone.
Source: afterErrorReply in src/networking.c; the same words in Redis 6.2 to 7.4 and Valkey 8.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO

_ERROR = re.compile(
    rb"sending an error to its AOF-loading-client: '(.*)' after processing the command '([^']{0,100})'"
)
_LONGEST_LINE = 1 << 16
_LONGEST_SHOWN = 200
# A script that ended with an error at the source, after it had written, ends with it here too.
_SCRIPTS = ("eval", "evalsha")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadErrors:
    """`commands` that were refused, and `scripts` that ended with an error; `first` is one of them."""

    commands: int = 0
    scripts: int = 0
    first: str = ""


def load_errors(log: IO[bytes]) -> LoadErrors:
    """All of them, from the beginning of the log on; of `first` a command goes before a script."""
    commands = scripts = 0
    of_command = of_script = ""
    log.seek(0)
    while line := log.readline(_LONGEST_LINE):
        found = _ERROR.search(line)
        if found is None:
            continue
        message, name = (part.decode("utf-8", "replace") for part in found.groups())
        shown = f"{name}: {message[:_LONGEST_SHOWN]}"
        if name in _SCRIPTS:
            scripts, of_script = scripts + 1, of_script or shown
        else:
            commands, of_command = commands + 1, of_command or shown
    return LoadErrors(commands=commands, scripts=scripts, first=of_command or of_script)
