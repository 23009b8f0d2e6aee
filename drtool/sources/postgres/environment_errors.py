"""Errors of a server that tell of its machine, its configuration or its rights, and not of its data.

Who looks at a copy must tell the two apart: a library that is not installed here is no damage. An
unknown text counts as damage, so nothing that is broken passes for healthy.
"""

from __future__ import annotations

import re

# PostgreSQL's own English texts (lc_messages is C in a copy): dfmgr.c, postinit.c, miscinit.c, pg_locale.c.
_ENVIRONMENT = re.compile(
    r'could not access file "'
    r'|could not load library "'
    r"|could not find function \"[^\"]*\" in file"
    r'|incompatible library "'
    r"|database locale is incompatible with operating system"
    r"|could not create locale"
    r"|could not open collator"
    r"|ICU is not supported in this build"
    r'|role "[^"]*" (does not exist|is not permitted to log in|is not a superuser)'
    r"|no superuser may log in"
    r'|database "[^"]*" (does not exist|is not currently accepting connections)'
    r'|cannot connect to invalid database "'
    r"|too many connections for (role|database)"
    r"|permission denied"
    r"|must be superuser"
    r"|canceling statement due to"
    r'|extension "[^"]*" is not available'
    r'|function [^\n"]*\([^)\n]*\) does not exist'
    r"|out of memory"
    r"|No space left on device"
)
# A database without its directory says the same as one that never was.
_DAMAGE = re.compile(r"subdirectory|invalid page|could not read block|XX00[0-9]")


def is_of_environment(text: str) -> bool:
    """Whether `text`, what a server or libpq said, tells of no damage."""
    return _ENVIRONMENT.search(text) is not None and _DAMAGE.search(text) is None
