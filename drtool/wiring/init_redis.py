"""What `drtool init` makes of a variable NAME_DSN that leads to a Redis or a Valkey."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from drtool.check.links import check_link
from drtool.errors import DrtoolError, UsageError
from drtool.model.finding import Finding, Severity, harm_of
from drtool.model.outcome import Fact
from drtool.policy.secrets import Secret
from drtool.sources.redis.address import VERIFY, Login, NodeAddress, TlsSettings, link_of
from drtool.sources.redis.connection import connect
from drtool.sources.redis.refusals import unknown_release
from drtool.sources.redis.release import server_mode
from drtool.wiring.surroundings import Surroundings

_SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
_DEFAULT_PORT = 6379
_SOURCE = """\
  {name}:
    kind: redis
    topology: {topology}
    nodes: ["{node}"]{login}
    stream: true                      # drtool redis receive {name}
    schedule: {{backup: "0 * * * *", check: "*/5 * * * *"}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisDsn:
    """Where a server is and how one logs in, as a connection string tells it."""

    variable: str
    address: NodeAddress
    username: str | None
    password: Secret | None
    is_tls: bool

    @property
    def login(self) -> Login:
        tls = TlsSettings() if self.is_tls else None
        return Login(username=self.username, password=self.password, tls=tls)

    @property
    def password_variable(self) -> str:
        """Which variable holds the password alone: a policy refers to that, not to the whole string."""
        return f"{self.variable.removesuffix('_DSN')}_PASSWORD"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisProbe:
    """The source for the policy, what the server said, and what a person has to see to."""

    text: str
    fact: Fact
    findings: tuple[Finding, ...]


def is_redis(dsn: str) -> bool:
    """Whether a connection string is one of Redis or Valkey."""
    return dsn.partition("://")[0].lower() in _SCHEMES


def probe_redis(name: str, variable: str, around: Surroundings) -> RedisProbe:
    """Ask the server what it is; a server that cannot be asked becomes a finding.

    UsageError if the variable holds no address.
    """
    dsn = _read(around.environ[variable], variable)
    if dsn.password is not None:
        around.redactor.learn(dsn.password)
    topology, findings = "standalone", list(_about_password(name, dsn))
    try:
        with connect(dsn.address, dsn.login) as connection:
            topology = server_mode(connection.info("server"))
            release = connection.release
            if not release.is_known:
                raise unknown_release(connection.place, release, name)
            link = link_of(dsn.address, dsn.login)
            findings += check_link(connection.place, link, fix=VERIFY)
        shown = f"{release}, {topology}, {dsn.address}"
    except DrtoolError as error:
        shown = "cannot be protected as it stands"
        findings.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=f"source {name}",
                fact=error.message,
                fix=error.hint,
                harm=harm_of(error),
            )
        )
    text = _SOURCE.format(name=name, topology=topology, node=dsn.address, login=_login_lines(dsn))
    return RedisProbe(
        text=text, fact=Fact(name=name, value=shown, label=name), findings=tuple(findings)
    )


def _about_password(name: str, dsn: RedisDsn) -> Iterator[Finding]:
    if dsn.password is not None:
        yield Finding(
            severity=Severity.WARNING,
            subject=f"source {name}",
            fact=f"its password stands inside {dsn.variable}, and the policy refers to"
            f" {dsn.password_variable}",
            fix=f"export {dsn.password_variable} with the password alone.",
        )


def _login_lines(dsn: RedisDsn) -> str:
    lines = []
    if dsn.username:
        lines.append(f"username: {json.dumps(dsn.username)}")
    if dsn.password is not None:
        lines.append(f"password: env:{dsn.password_variable}")
    if dsn.is_tls:
        lines.append("tls: {}")
    return "".join(f"\n    {line}" for line in lines)


def _read(text: str, variable: str) -> RedisDsn:
    try:
        parts = urlsplit(text)
        if not parts.hostname:
            raise ValueError("it names no host")
        address = NodeAddress(parts.hostname, parts.port or _DEFAULT_PORT)
    except ValueError as error:
        raise UsageError(
            f"{variable} is no connection string of Redis: {error}",
            hint="Write redis://[USER:PASSWORD@]HOST[:PORT], or rediss:// for TLS.",
        ) from None
    return RedisDsn(
        variable=variable,
        address=address,
        username=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
        is_tls=_SCHEMES[parts.scheme.lower()],
    )
