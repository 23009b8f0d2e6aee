"""Where a Redis server listens and how one logs in there."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from drtool.errors import PolicyError
from drtool.model.link import Link
from drtool.policy.secrets import Secret
from drtool.system.network import stays_on_this_machine

VERIFY = (
    "Let the server listen with TLS (tls-port, tls-cert-file), and say `tls: {ca_file: FILE}` in the"
    " policy, without check_hostname: false."
)


@dataclass(frozen=True, slots=True, order=True)
class NodeAddress:
    """A host and a port, or (port 0) the path of a Unix socket."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """Read `HOST:PORT`; ValueError for anything else."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not an address: write HOST:PORT")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def is_socket(self) -> bool:
        return self.port == 0

    def __str__(self) -> str:
        if self.is_socket:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How the server proves itself and we ourselves; None takes what the system trusts."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """PolicyError if a file cannot be used."""
        try:
            context = ssl.create_default_context(
                cafile=None if self.ca_file is None else str(self.ca_file)
            )
            context.check_hostname = self.check_hostname
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise PolicyError(
                f"a certificate or key for TLS cannot be used: {error}",
                hint="Name PEM files that drtool may read.",
            ) from error
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who we are: no password, `requirepass`, or an ACL user with one."""

    username: str | None = None
    password: Secret | None = field(default=None, repr=False)
    tls: TlsSettings | None = None

    def auth_words(self) -> list[bytes]:
        """The command that logs in; empty where there is no password to give."""
        if self.password is None:
            return []
        words = ["AUTH", *([self.username] if self.username else []), self.password.reveal()]
        return [word.encode() for word in words]


def link_of(address: NodeAddress, login: Login) -> Link:
    """How a connection there is protected."""
    tls = login.tls
    return Link(
        stays_here=address.is_socket or stays_on_this_machine(address.host),
        is_encrypted=tls is not None,
        # Any name will do for an authority of one's own, and for no public one.
        is_verified=tls is not None and (tls.check_hostname or tls.ca_file is not None),
    )


def is_listening(address: NodeAddress) -> bool:
    """Whether a server takes connections there now. Waits half a second at most."""
    try:
        with socket.create_connection((address.host, address.port), timeout=0.5):
            return True
    except OSError:
        return False
