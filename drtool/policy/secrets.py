"""Secrets: references to them in a policy, their values in memory, and their removal from any text."""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from drtool.errors import PolicyError
from drtool.model.finding import Finding, Severity

SHOWN = "***"
MAX_SECRET_BYTES = 64 * 1024
# Shorter ones are no secret, and hiding each "a" would make a report unreadable.
MIN_HIDDEN_LENGTH = 4

REFERENCE = r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+"
_REFERENCE = re.compile(r"(env):([A-Za-z_][A-Za-z0-9_]*)|(file):(.+)")
_KEY_VALUE_PASSWORD = re.compile(
    r"\b(?:ssl)?password\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)+))", re.IGNORECASE
)
_QUERY_PASSWORD = re.compile(r"[?&](?:ssl)?password=([^&\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NoEncryption:
    """`key: none`, written out: the repository is kept in clear text."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is found: `env:NAME` or `file:PATH`."""

    place: Literal["env", "file"]
    name: str

    @classmethod
    def parse(cls, text: str) -> SecretReference:
        """ValueError for anything else, which may be a secret itself and so is not repeated."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(
                "a secret is never written into a policy: refer to it by env:NAME or file:PATH"
            )
        if match[1] is not None:
            return cls("env", match[2])
        return cls("file", match[4])

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


class Secret:
    """A secret's value. Only `reveal` shows it; printing, formatting and pickling do not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return SHOWN

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return SHOWN

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not written anywhere")


def resolve(reference: SecretReference, environ: Mapping[str, str]) -> Secret:
    """The secret's value, without a trailing newline; PolicyError if it is not there or empty."""
    if reference.place == "env":
        value = environ.get(reference.name)
        if value is None:
            raise PolicyError(
                f"environment variable {reference.name} is not set, and the policy refers to it",
                hint=f"Set it for this process: export {reference.name}=...",
            )
    else:
        value = _read_secret_file(reference)
    if not value:
        raise PolicyError(f"the secret {reference} is empty", hint="Put the secret's value there.")
    return Secret(value)


def file_findings(reference: SecretReference) -> list[Finding]:
    """A warning if others on this machine may read the secret's file."""
    if reference.place != "file":
        return []
    try:
        mode = Path(reference.name).stat().st_mode
    except OSError:
        return []  # `resolve` says so, with the reason
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            subject=f"secret file {reference.name}",
            fact=f"others may read or change it (mode {stat.S_IMODE(mode):04o})",
            fix=f"chmod 600 {reference.name}",
        )
    ]


def _read_secret_file(reference: SecretReference) -> str:
    path = Path(reference.name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        if len(content) > MAX_SECRET_BYTES:
            raise PolicyError(
                f"secret file {path} is longer than {MAX_SECRET_BYTES} bytes",
                hint="Refer to the file that holds only the secret.",
            )
        return content.decode().rstrip("\r\n")
    except OSError as error:
        raise PolicyError(
            f"secret file {path} cannot be read: {error.strerror}",
            hint="Create it with mode 600, owned by the user that drtool runs as.",
        ) from error
    except UnicodeDecodeError:
        # Without `from`: the decoder's error carries the bytes.
        raise PolicyError(
            f"secret file {path} is not UTF-8 text", hint="Write the secret as text, one line."
        ) from None


class Redactor:
    """Knows the secrets of this process and takes them out of any text. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hidden: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, secret: Secret) -> Secret:
        """From now on hide `secret`, the passwords in it if it is a DSN, and all their spellings."""
        value = secret.reveal()
        words = set(_spellings([value, *passwords_in(value), *value.splitlines()]))
        with self._lock:
            self._hidden |= {word for word in words if len(word) >= MIN_HIDDEN_LENGTH}
            # The longest first: a secret that contains another one disappears whole.
            longest_first = sorted(self._hidden, key=lambda word: (-len(word), word))
            if longest_first:
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        return secret

    def resolve(self, reference: SecretReference, environ: Mapping[str, str]) -> Secret:
        """Like the function `resolve`, and the value is hidden from now on."""
        return self.learn(resolve(reference, environ))

    def redact(self, text: str) -> str:
        """`text` with each known secret replaced by `***`, and passwords in any DSN it quotes."""
        if self._pattern is not None:
            text = self._pattern.sub(SHOWN, text)
        return _hide_passwords(text)


def passwords_in(dsn: str) -> list[str]:
    """The passwords in a connection string, as URI or as key=value words, raw and decoded."""
    found: list[str] = []
    if "://" in dsn:
        authority = dsn.split("://", 1)[1].split("/", 1)[0]
        user_part = authority.rpartition("@")[0]
        if ":" in user_part:
            found.append(user_part.split(":", 1)[1])
        found += _QUERY_PASSWORD.findall(dsn)
        try:
            found.append(urlsplit(dsn).password or "")
        except ValueError:
            pass  # not a URL after all
    for quoted, plain in _KEY_VALUE_PASSWORD.findall(dsn):
        word = quoted or plain
        found += [word, re.sub(r"\\(.)", r"\1", word)]
    return [password for password in found if password]


def _spellings(words: Iterable[str]) -> Iterator[str]:
    """Each word as it is, percent-decoded, percent-encoded, and as Python and JSON would quote it."""
    for word in words:
        for form in (word, unquote(word), unquote_plus(word)):
            yield form
            yield quote(form, safe="")
            yield quote(form)
            yield quote_plus(form)
            yield repr(form)[1:-1]
            yield form.replace("\\", "\\\\").replace('"', '\\"')
            yield form.replace("\\", "\\\\").replace("'", "\\'")


# Bounded, so that a long text of letters and dots does not take the square of its length.
_URI_PASSWORD = re.compile(
    r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@'\"]*:)[^\s/@'\"]+(@)", re.IGNORECASE
)


def _hide_passwords(text: str) -> str:
    text = _URI_PASSWORD.sub(rf"\1{SHOWN}\2", text)
    return re.sub(
        r"\b((?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.){0,4096}'|[^\s'\"&,;)]+)",
        rf"\1{SHOWN}",
        text,
        flags=re.IGNORECASE,
    )
