"""What a server is besides its keys: settings, users, modules and functions, to be kept sealed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from drtool.errors import IntegrityError, SourceUnavailable
from drtool.model.finding import Finding, Severity
from drtool.policy.secrets import Secret
from drtool.sources.redis.connection import RedisConnection, Reply, pairs, texts
from drtool.sources.redis.release import Product, Release, parse_release
from drtool.sources.redis.told import said

# Settings whose value is a secret; more may come with later versions, so words decide.
_SECRET_WORDS = ("pass", "auth")
_NO_SECRETS = frozenset({"tls-auth-clients"})
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedServer:
    """One server's configuration. Settings that are secrets and ACL rules are `Secret`s.

    `functions` is what FUNCTION DUMP gave, None where the server has none (6.2) or may not be asked;
    `findings` name what could not be read.
    """

    release: Release
    settings: Mapping[str, str]
    secrets: Mapping[str, Secret] = field(repr=False)
    acl_rules: tuple[Secret, ...] = field(repr=False)
    modules: tuple[str, ...]
    functions: bytes | None = field(repr=False)
    findings: tuple[Finding, ...] = ()

    def to_sealed(self) -> bytes:
        """All of it with the secrets revealed: for what is sealed before it is stored, and no more."""
        functions = None if self.functions is None else base64.b64encode(self.functions).decode()
        content = {
            "format": FORMAT,
            "product": str(self.release.product),
            "version": self.release.version_text,
            "settings": dict(self.settings),
            "secrets": {name: secret.reveal() for name, secret in self.secrets.items()},
            "acl_rules": [rule.reveal() for rule in self.acl_rules],
            "modules": list(self.modules),
            "functions": functions,
        }
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def from_sealed(cls, content: bytes) -> CapturedServer:
        """What `to_sealed` wrote; IntegrityError for anything else."""
        try:
            read = json.loads(content)
            if read["format"] != FORMAT:
                raise ValueError(f"format {read['format']}")
            functions = read["functions"]
            return cls(
                release=parse_release(
                    Product(read.get("product", Product.REDIS)), str(read["version"])
                ),
                settings={str(name): str(value) for name, value in read["settings"].items()},
                secrets={str(name): Secret(str(value)) for name, value in read["secrets"].items()},
                acl_rules=tuple(Secret(str(rule)) for rule in read["acl_rules"]),
                modules=tuple(map(str, read["modules"])),
                functions=None if functions is None else base64.b64decode(functions),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"a captured configuration cannot be read: {error}") from None


def capture(connection: RedisConnection) -> CapturedServer:
    """Read the configuration of one server. What the ACL forbids is a finding, not a failure."""
    findings: list[Finding] = []
    reading = _Reading(connection, findings)
    told = pairs(reading.ask("CONFIG", "GET", "*"))
    modules = reading.ask("MODULE", "LIST")
    functions = reading.ask("FUNCTION", "DUMP") if connection.version >= (7, 0) else None
    return CapturedServer(
        release=connection.release,
        settings={name: value for name, value in told.items() if not _is_secret(name)},
        secrets={name: Secret(value) for name, value in told.items() if _is_secret(name) and value},
        acl_rules=tuple(Secret(rule) for rule in texts(reading.ask("ACL", "LIST"))),
        modules=tuple(
            said(pairs(one), "name") for one in (modules if isinstance(modules, list) else ())
        ),
        functions=functions if isinstance(functions, bytes) else None,
        findings=tuple(findings),
    )


def startable_settings(captured: CapturedServer, *, directory: str) -> dict[str, str]:
    """The settings with which a restored server starts in `directory`, without those of its old home.

    No master, no cluster file of another, no path: those are for whoever hands it over to set.
    """
    return {
        name: value
        for name, value in {**captured.settings, "dir": directory}.items()
        if name in _CARRIED or name == "dir"
    }


_CARRIED = frozenset(
    {
        "databases", "maxmemory", "maxmemory-policy", "maxmemory-samples", "appendfsync", "save",
        "hash-max-listpack-entries", "hash-max-listpack-value", "hash-max-ziplist-entries",
        "hash-max-ziplist-value", "list-max-listpack-size", "list-max-ziplist-size",
        "set-max-intset-entries", "zset-max-listpack-entries", "zset-max-listpack-value",
        "zset-max-ziplist-entries", "zset-max-ziplist-value", "stream-node-max-bytes",
        "stream-node-max-entries", "notify-keyspace-events", "repl-backlog-size", "timeout",
        "client-output-buffer-limit", "lazyfree-lazy-expire", "lazyfree-lazy-eviction",
        "lazyfree-lazy-server-del", "cluster-node-timeout", "cluster-require-full-coverage",
        "maxclients", "latency-monitor-threshold", "slowlog-log-slower-than", "slowlog-max-len",
    }
)  # fmt: skip


class _Reading:
    """Asks, and writes down what it was not told."""

    def __init__(self, connection: RedisConnection, findings: list[Finding]) -> None:
        self._connection = connection
        self._findings = findings

    def ask(self, *words: str) -> Reply:
        try:
            return self._connection.ask(*words)
        except SourceUnavailable as error:
            if error.retryable and "refuses" not in error.message:
                raise
            self._findings.append(
                Finding(
                    severity=Severity.WARNING,
                    subject=f"{' '.join(words)} at {self._connection.address}",
                    fact=f"it is not in the backup: {error.message}",
                    fix=error.hint,
                )
            )
            return None


def _is_secret(name: str) -> bool:
    return name not in _NO_SECRETS and any(word in name for word in _SECRET_WORDS)
