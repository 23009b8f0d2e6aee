"""Why a Redis server did not let us in, or did not do what we asked: each with what to do about it."""

from __future__ import annotations

import re

from drtool.errors import SourceUnavailable, SourceUnsuitable
from drtool.sources.redis.release import Release, known_releases

OLDEST_VERSION = (6, 2)
# What the replication link and the checks need, as one rule of an ACL.
NEEDED_RIGHTS = (
    "+psync +replconf +ping +info +time +config|get +acl|list +module|list +function|dump"
    " +cluster|info +cluster|nodes +cluster|shards +command"
)
_NO_RIGHT = re.compile(r"run the '([^']+)' command")
_UNKNOWN = re.compile(r"unknown command [`']?([\w|.-]+)")
_NO_KEY = re.compile(r"access (?:one of )?the keys?|No permissions to access a key", re.I)


def unreachable(place: str, why: object) -> SourceUnavailable:
    """Nobody answers there."""
    return SourceUnavailable(
        f"{place} cannot be reached: {str(why).rstrip('. ')}",
        hint="Check the address and the network, and that the server runs: redis-cli -h HOST -p PORT"
        " ping.",
    )


def silent(place: str, seconds: float) -> SourceUnavailable:
    """The server is connected and says nothing."""
    return SourceUnavailable(
        f"{place} has sent nothing for {seconds:g} s",
        hint="Look at the server's log and at the network between; then try again.",
    )


def hung_up(place: str, what: str) -> SourceUnavailable:
    """The server ended the connection."""
    return SourceUnavailable(
        f"{place} ended the connection {what}",
        hint="Look at its log: it may have restarted, failed to fork, or closed a replica that read"
        " too slowly (client-output-buffer-limit replica).",
    )


def refused(place: str, text: str) -> SourceUnavailable:
    """What an error reply becomes; a reply that is not known here is passed on as it is."""
    word = text.split(" ", 1)[0].lstrip("-")
    if word == "NOAUTH" or "Authentication required" in text:
        return SourceUnsuitable(
            f"{place} wants a password", hint="Set password (and username) of the source."
        )
    if word == "WRONGPASS" or "invalid password" in text or "invalid username" in text:
        return SourceUnsuitable(
            f"{place} refuses the user name or the password",
            hint="Check the secret that the policy refers to, and ACL GETUSER on the server.",
        )
    if "without any password configured" in text:
        return SourceUnsuitable(
            f"{place} has no password, and the policy gives one",
            hint="Leave password out of the policy, or set requirepass there.",
        )
    if word == "NOPERM":
        return _no_right(place, text)
    if word in ("LOADING", "MASTERDOWN", "BUSY", "NOMASTERLINK", "TRYAGAIN", "CLUSTERDOWN"):
        return SourceUnavailable(f"{place} is not ready: {_plain(text)}", hint=_WAITING[word])
    if "max number of clients" in text:
        return SourceUnavailable(
            f"{place} has no connection to spare", hint="Raise maxclients there, or find the leak."
        )
    if (match := _UNKNOWN.search(text)) is not None:
        return no_command(place, match[1].upper())
    return SourceUnavailable(f"{place} refuses: {_plain(text)}", hint="Look at the server's log.")


def no_command(place: str, name: str) -> SourceUnsuitable:
    """It was renamed or taken away, in redis.conf or by whoever sells the server."""
    hint = f"Take `rename-command {name} ...` out of its redis.conf and restart it"
    if name in ("PSYNC", "REPLCONF", "SYNC"):
        hint += ", or give drtool a replica that has it. Managed services block it: use their own backups"
    return SourceUnsuitable(f"{place} refuses: it has no {name}", hint=hint + ".")


def unknown_release(place: str, release: Release, source: str) -> SourceUnsuitable:
    """What it writes may be read wrongly, or not at all."""
    return SourceUnsuitable(
        f"{place} runs {release}, which this drtool does not know: it knows {known_releases()}",
        hint=f"Install a newer drtool. `drtool backup {source} --unread` keeps the snapshot without"
        f" reading it: it can then only be restored whole, by a {release.product.server_program} of its"
        " own version.",
    )


def too_old(place: str, version: str) -> SourceUnsuitable:
    """Older than what drtool was tried with."""
    oldest = ".".join(map(str, OLDEST_VERSION))
    return SourceUnsuitable(
        f"{place} runs Redis {version}, and drtool needs {oldest} or later",
        hint=f"Upgrade it to Redis {oldest} or later.",
    )


_WAITING = {
    "LOADING": "It loads its data: wait until INFO persistence says loading:0.",
    "MASTERDOWN": "Its link to its master is down: look at INFO replication there.",
    "NOMASTERLINK": "It is a replica without its master: wait for the failover, or take another node.",
    "BUSY": "A script runs for long: wait, or end it with SCRIPT KILL.",
    "TRYAGAIN": "Slots are being moved: wait until the resharding is done.",
    "CLUSTERDOWN": "The cluster has no quorum or lacks slots: look at CLUSTER INFO.",
}


def _no_right(place: str, text: str) -> SourceUnsuitable:
    match = _NO_RIGHT.search(text)
    if match is not None:
        command = match[1].lower()
        return SourceUnsuitable(
            f"{place}: the ACL user may not run {command}",
            hint=f"Run ACL SETUSER the_user +{command} there; all that drtool needs:"
            f" {NEEDED_RIGHTS}.",
        )
    if _NO_KEY.search(text):
        return SourceUnsuitable(
            f"{place}: the ACL user may not touch drtool's heartbeat key",
            hint="Run ACL SETUSER the_user +set ~drtool:* there.",
        )
    return SourceUnsuitable(
        f"{place}: the ACL user lacks a right: {_plain(text)}",
        hint=f"Grant with ACL SETUSER what drtool needs: {NEEDED_RIGHTS}.",
    )


def _plain(text: str) -> str:
    return " ".join(text.lstrip("-").split())[:300] or "it does not say why"
