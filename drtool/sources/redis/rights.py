"""What our ACL user may do on a server: the rules of ACL LIST, read for the commands of a replica.

Source: Redis docs, "ACL"; the categories are those that COMMAND INFO gives (7.0 and 6.2 alike).
"""

from __future__ import annotations

from collections.abc import Sequence

from drtool.errors import SourceUnavailable
from drtool.sources.redis.address import Login
from drtool.sources.redis.connection import RedisConnection, texts

# A check asks INFO, TIME, CONFIG GET and ACL LIST itself; these it cannot try without doing harm.
_CATEGORIES = {
    "psync": ("@admin", "@dangerous", "@slow"),
    "replconf": ("@admin", "@dangerous", "@slow"),
    "set": ("@write", "@string", "@slow"),
}


def read_rules(connection: RedisConnection, login: Login) -> tuple[str, ...]:
    """The rules about commands of the user that we are, in their order; nothing of its passwords.

    SourceUnavailable or SourceUnsuitable if we may not ask, or are not there.
    """
    user = login.username or "default"
    for line in texts(connection.ask("ACL", "LIST")):
        words = line.split()
        if words[:2] == ["user", user]:
            # What a selector adds in brackets is left out: it may only give more.
            return tuple(word for word in words if word[0] in "+-" or word.endswith("commands"))
    raise SourceUnavailable(
        f"{connection.place} has no user {user} in ACL LIST", hint="Look at ACL WHOAMI there."
    )


def missing_rights(rules: Sequence[str], *, writes_marks: bool) -> tuple[str, ...]:
    """What of psync, replconf and, to write marks, set the rules do not allow. Pure."""
    wanted = ("psync", "replconf", *(("set",) if writes_marks else ()))
    return tuple(command for command in wanted if not _may_run(rules, command))


def _may_run(rules: Sequence[str], command: str) -> bool:
    """The last rule that speaks of a command counts."""
    is_allowed = False
    for rule in rules:
        if rule in ("allcommands", "nocommands"):
            is_allowed = rule == "allcommands"
        elif rule[1:] in ("@all", command, *_CATEGORIES[command]):
            is_allowed = rule[0] == "+"
    return is_allowed
