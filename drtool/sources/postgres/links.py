"""How a connection to PostgreSQL is protected, and no password in clear text over one that is not.

Source: PostgreSQL docs, "libpq connection control functions" (`sslmode`, `require_auth`).
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from drtool.model.link import Link
from drtool.system.network import stays_on_this_machine

VERIFY = (
    "Add sslmode=verify-full (and sslrootcert=FILE of the authority that signed the server's certificate)"
    " to the DSN; the server needs ssl = on, and hostssl lines in pg_hba.conf."
)
_VERIFYING = ("verify-ca", "verify-full")
_ENCRYPTING = ("require", *_VERIFYING)
# What libpq says where `require_auth` keeps a password back (fe-auth.c, check_expected_areq).
_KEPT_BACK = "requested a cleartext password"


def link_of(connection: psycopg.Connection) -> Link:
    """How this very connection is protected."""
    mode = _settled(connection.info.get_parameters()).get("sslmode", "")
    encrypted = bool(connection.pgconn.ssl_in_use)
    return Link(
        stays_here=stays_on_this_machine(connection.info.hostaddr or connection.info.host),
        is_encrypted=encrypted,
        is_verified=encrypted and mode in _VERIFYING,
    )


def connect_guarded(conninfo: str) -> psycopg.Connection:
    """Connect, in autocommit; a password in clear text goes over TLS or a Unix socket, or nowhere.

    `password`, `ldap`, `pam` and `radius` of pg_hba.conf ask for one (MD5 and SCRAM do not), and so may
    whoever stands in the server's place. A DSN that sets `require_auth` has decided for itself.
    """
    given = _settled(conninfo_to_dict(conninfo))
    if given.get("require_auth") or given.get("sslmode") in _ENCRYPTING or _is_by_socket(given):
        return psycopg.connect(conninfo, autocommit=True)
    try:
        return psycopg.connect(make_conninfo(conninfo, require_auth="!password"), autocommit=True)
    except psycopg.OperationalError as error:
        if _KEPT_BACK not in str(error) or given.get("sslmode") == "disable":
            raise
        try:
            return psycopg.connect(make_conninfo(conninfo, sslmode="require"), autocommit=True)
        except psycopg.OperationalError as over_tls:
            # Without TLS there the first answer says more; with it, what was asked over it.
            raise (error if "SSL" in str(over_tls) else over_tls) from None


def _settled(given: Mapping[str, str | int | None]) -> dict[str, str]:
    """What was given, above what the environment (PGSSLMODE, ...) and the service file say."""
    found = {}
    for option in pq.Conninfo.get_defaults():
        if option.val:
            found[option.keyword.decode()] = option.val.decode()
    return found | {name: str(value) for name, value in given.items() if value is not None}


def _is_by_socket(given: dict[str, str]) -> bool:
    hosts = given.get("host", "").split(",")
    return not given.get("hostaddr") and all(
        not host or host.startswith(("/", "@")) for host in hosts
    )
