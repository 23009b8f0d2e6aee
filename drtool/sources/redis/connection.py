"""Commands to one Redis server: every wait has a limit, every refusal says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from drtool.errors import SourceUnavailable
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.refusals import OLDEST_VERSION, refused, too_old, unreachable
from drtool.sources.redis.release import Product, Release, read_release
from drtool.sources.redis.replies import BoundedParser
from drtool.sources.redis.told import moment_of, whole, whole_of, words_of

_VERSION_PART = re.compile("[0-9]{1,9}")
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# What a server may answer: commands here return these and nothing else.
Reply = bytes | int | None | list["Reply"]
Word = str | bytes | int


class RedisConnection:
    """One connection to one server. Not for two threads; closed by whoever opened it."""

    def __init__(self, client: redis.Redis, address: NodeAddress) -> None:
        self._client = client
        self.address = address
        self.place = f"Redis at {address}"
        self.version: tuple[int, int, int] = (0, 0, 0)
        """The version of Redis whose commands it knows; Valkey 8 knows those of 7.2."""
        self.release = Release(Product.REDIS, (0, 0, 0))

    def ask(self, *words: Word) -> Reply:
        """What the server answers to one command.

        SourceUnavailable or SourceUnsuitable if it does not, or answers with an error.
        """
        with _mapped(self.place):
            # Whole replies, untouched: the library's own callbacks are not registered.
            return self._client.execute_command(*words)  # type: ignore[no-any-return,no-untyped-call,unused-ignore] # untyped there

    def text(self, *words: Word) -> str:
        """An answer that is a string."""
        return _text(self.ask(*words))

    def number(self, *words: Word) -> int:
        """An answer that is a number."""
        reply = self.ask(*words)
        if not isinstance(reply, int):
            raise SourceUnavailable(f"{self.place} gave no number to {words[0]!s}")
        return reply

    def info(self, section: str) -> dict[str, str]:
        """One section of INFO, as it stands there."""
        lines = (line.partition(":") for line in self.text("INFO", section).splitlines())
        return {name: value for name, colon, value in lines if colon and not name.startswith("#")}

    def settings(self, pattern: str) -> dict[str, str]:
        """What CONFIG GET says of `pattern`."""
        return pairs(self.ask("CONFIG", "GET", pattern))

    def select(self, database: int) -> None:
        """Commands go to that database from now on."""
        self.ask("SELECT", database)

    def close(self) -> None:
        self._client.close()
        # The library leaves alone what is in a pool that it was given.
        self._client.connection_pool.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    address: NodeAddress,
    login: Login,
    *,
    timeout_seconds: float = CONNECT_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> RedisConnection:
    """A connection that is logged in, to a server that is not too old.

    SourceUnavailable or SourceUnsuitable say why there is none. A server that loads its data is
    connected to: its commands then fail one by one. A command that fails is not tried again.
    """
    connection = RedisConnection(
        _client(address, login, timeout_seconds=timeout_seconds, answer_seconds=answer_seconds),
        address,
    )
    try:
        server = connection.info("server")
        told = server.get("redis_version", "0")
        connection.version = _version(told)
        connection.release = read_release(server)
        if connection.version < OLDEST_VERSION:
            raise too_old(connection.place, told)
    except BaseException:
        connection.close()
        raise
    return connection


def server_moment(connection: RedisConnection) -> datetime:
    """The server's own clock; SourceUnavailable if it does not tell."""
    words = texts(connection.ask("TIME"))
    if len(words) != 2:
        raise SourceUnavailable(f"{connection.place} does not tell its time")
    return moment_of(*(whole_of(word, "time") for word in words))


def keys_by_database(connection: RedisConnection) -> dict[int, int]:
    """How many keys each database holds, those that have expired and are still there included."""
    return {
        whole_of(name.removeprefix("db"), "database"): whole(words_of(told), "keys")
        for name, told in connection.info("keyspace").items()
    }


def pairs(reply: Reply) -> dict[str, str]:
    """A flat list of names and values, as a mapping of texts; without what has no value at its end."""
    words = texts(reply)
    return dict(zip(words[::2], words[1::2], strict=False))


def texts(reply: Reply) -> list[str]:
    """A list of strings."""
    return [_text(word) for word in reply] if isinstance(reply, list) else []


def _client(
    address: NodeAddress, login: Login, *, timeout_seconds: float, answer_seconds: float
) -> redis.Redis:
    pool: redis.ConnectionPool
    kind: (
        type[redis.Connection] | type[redis.SSLConnection] | type[redis.UnixDomainSocketConnection]
    )
    # Each class of connection has arguments of its own, of many types.
    shared: dict[str, Any] = {  # of many types
        "username": login.username,
        "password": None if login.password is None else login.password.reveal(),
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), 0),
        "parser_class": BoundedParser,
        "protocol": 2,
        "client_name": None,
    }
    if address.is_socket:
        kind = redis.UnixDomainSocketConnection
        shared |= {"path": address.host}
    else:
        shared |= {
            "host": address.host,
            "port": address.port,
            "socket_connect_timeout": timeout_seconds,
            "socket_keepalive": True,
        }
        kind = redis.Connection
        if login.tls is not None:
            kind = redis.SSLConnection
            tls = login.tls
            shared |= {
                "ssl_ca_certs": None if tls.ca_file is None else str(tls.ca_file),
                "ssl_certfile": None if tls.certificate is None else str(tls.certificate),
                "ssl_keyfile": None if tls.key is None else str(tls.key),
                "ssl_check_hostname": tls.check_hostname,
            }
    pool = redis.ConnectionPool(connection_class=kind, max_connections=1, **shared)
    client = redis.Redis(connection_pool=pool, single_connection_client=False)
    client.response_callbacks.clear()
    return client


# The library takes the first word off these replies, which says what they are.
_WORDS: dict[type[redis.RedisError], str] = {
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.BusyLoadingError: "LOADING",
    redis.AuthenticationError: "AUTH",
}
_NAMED = tuple(_WORDS)


def _word_of(error: redis.RedisError) -> str:
    return next(word for kind, word in _WORDS.items() if isinstance(error, kind))


@contextmanager
def _mapped(place: str) -> Iterator[None]:
    """The library's errors become ours; none of them quotes the password."""
    try:
        yield
    except redis.TimeoutError as error:
        raise unreachable(place, "it does not answer in time") from error
    except _NAMED as error:
        raise refused(place, f"{_word_of(error)} {error}") from None
    except redis.ConnectionError as error:
        raise unreachable(place, _first_line(error)) from error
    except redis.InvalidResponse as error:
        raise SourceUnavailable(
            f"{place} does not speak Redis's protocol: {_first_line(error)[:200]}",
            hint="Check the address, and whether the server speaks TLS there.",
        ) from error
    except redis.RedisError as error:
        raise refused(place, str(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _version(text: str) -> tuple[int, int, int]:
    numbers = [int(word) for word in text.split(".")[:3] if _VERSION_PART.fullmatch(word)]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def _text(reply: Reply) -> str:
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "surrogateescape")
    return "" if reply is None else str(reply)
