"""What a Redis, or whoever stands in its place, sends: snapshots, streams, answers, and the words in them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from drtool.archiving.redis_joining import Backlog
from drtool.archiving.redis_pressure import read_limit
from drtool.backup.redis_counting import KeyCount
from drtool.errors import IntegrityError, NotRecoverable
from drtool.restore.redis_loading import mark_of
from drtool.sources.redis.address import Login, NodeAddress
from drtool.sources.redis.capture import CapturedServer, capture
from drtool.sources.redis.checks import check_server, read_state
from drtool.sources.redis.clusternodes import check_slots, parse_nodes
from drtool.sources.redis.commands import safe_cut
from drtool.sources.redis.connection import (
    RedisConnection,
    connect,
    keys_by_database,
    server_moment,
)
from drtool.sources.redis.expiries import absolute_expiries
from drtool.sources.redis.heartbeat import probe
from drtool.sources.redis.keyslot import SLOTS, SlotRange
from drtool.sources.redis.psync import LinkLimits, StreamBytes, open_link
from drtool.sources.redis.rdb import RdbWalker, stream_database
from drtool.sources.redis.rdbcodes import write_length, write_string
from drtool.sources.redis.rdbscan import EveryModule
from drtool.sources.redis.rdbwrite import reshape, shift_ttl
from drtool.sources.redis.renamed import module_writes, read_renamed
from drtool.sources.redis.replicated import ReplicatedOnly
from drtool.sources.redis.sentinels import read_sentinel
from drtool.system.clock import SystemClock
from tests.fuzz.harness import LongRun, Reader, run_short
from tests.redis.test_replicated import sent

ID = "a" * 40
# Between two answers.
NEXT = b"<next>"
LIMITS = LinkLimits(connect_seconds=0.5, silence_seconds=0.5, begin_seconds=1)


def rdb(*records: bytes, version: int = 12) -> bytes:
    """An RDB of these records; its checksum says that there is none, so that a changed one is read."""
    head = b"REDIS%04d" % version
    facts = b"".join(
        b"\xfa" + write_string(name) + write_string(value)
        for name, value in (
            (b"redis-ver", b"7.4.1"),
            (b"repl-stream-db", b"0"),
            (b"lua", b"return 1"),
        )
    )
    return head + facts + b"\xfe\x00\xfb\x07\x01" + b"".join(records) + b"\xff" + bytes(8)


def record(kind: int, value: bytes, *, head: bytes = b"") -> bytes:
    return head + bytes((kind,)) + write_string(b"key:%d" % kind) + value


def many(*words: bytes) -> bytes:
    return write_length(len(words)) + b"".join(map(write_string, words))


PACKED = b"\xc3\x09\x1a\x01aa\xe0\x0d\x00\x01aa"
STREAM = many(b"id", b"pack") + bytes(8) + b"\x01" + write_string(b"group") + bytes(3) + b"\x00\x00"
FUNCTION = b"\xf5" + write_string(b"#!lua name=lib\nredis.register_function('f', function() end)")
MODULE = write_length(0x4D42_6C6F_6F6D_2D2D) + b"\x02\x07\x05" + write_string(b"data") + b"\x00"
EXPIRES = b"\xfc" + (4_000_000_000_000).to_bytes(8, "little")
LISTPACK = b"\x12\x00\x00\x00\x03\x00\x81f\x02\x81v\x02\x01\x01\xff"
RDBS = [
    rdb(
        record(0, write_string(b"v"), head=EXPIRES),
        record(0, PACKED),
        record(1, many(b"a", b"b")),
        record(2, many(b"a", b"b")),
        record(3, b"\x01" + write_string(b"m") + b"\x031.5"),
        record(4, many(b"f", b"v")[:1] + write_string(b"f") + write_string(b"v") * 3),
        record(5, b"\x01" + write_string(b"m") + bytes(8)),
    ),
    FUNCTION.join([rdb(version=10)[:-9], b"\xff" + bytes(8)]),
    rdb(
        record(18, b"\x01\x02" + write_string(b"pack")),
        record(24, bytes(8) + b"\x01\x05" + write_string(b"f") + write_string(b"v"), head=EXPIRES),
        record(25, bytes(8) + write_string(LISTPACK), head=EXPIRES),
        record(16, write_string(b"pack"), head=b"\xf8\x07"),
    ),
]


def read_rdb(content: bytes) -> None:
    for _ in RdbWalker([content], modules=EveryModule()):
        pass


def read_database(content: bytes) -> None:
    stream_database([content])


def write_anew(content: bytes) -> None:
    everything = [[SlotRange(0, SLOTS - 1)]]
    later = shift_ttl(timedelta(days=1))
    reshape([[content]], [lambda _: None], shares=everything, ttl=later, modules=EveryModule())


def read_stream(content: bytes) -> None:
    reader = ReplicatedOnly(0, scripts_until=1 << 20)
    parts = [content[begin : begin + 7] for begin in range(0, min(len(content), 4000), 7)]
    passed = (
        piece for part in (*parts, content[len(parts) * 7 :]) for piece in reader.changed(part)
    )
    for _ in absolute_expiries(((0, piece) for piece in passed), begin=0):
        pass


def cut_stream(content: bytes) -> None:
    safe_cut([content], begin=0, until=len(content))


def read_nodes(content: bytes) -> None:
    check_slots(parse_nodes(content.decode("utf-8", "replace"), NodeAddress("h", 1)))


def read_config(content: bytes) -> None:
    captured = CapturedServer.from_sealed(content)
    assert all(isinstance(rule.reveal(), str) for rule in captured.acl_rules)


def read_mark(content: bytes) -> None:
    moment = mark_of(content.decode("utf-8", "replace"))
    assert moment is None or (moment - timedelta(days=2)).astimezone() > moment - timedelta(days=3)


@contextmanager
def answering(content: bytes) -> Iterator[NodeAddress]:
    """A server that says the next part of `content` whenever it is asked something, and then hangs up."""
    with (
        tempfile.TemporaryDirectory(prefix="fz-") as place,
        socket.socket(socket.AF_UNIX) as server,
    ):
        path = os.path.join(place, "s")
        server.bind(path)
        server.listen(4)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    client.settimeout(1)
                    with client, contextlib.suppress(OSError):
                        for answer in content.split(NEXT):
                            client.recv(1 << 16)
                            client.sendall(answer)
                        # Nothing more is said.
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(1 << 16):
                            continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield NodeAddress(path, 0)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def array(*items: bytes) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


def words(*texts: str) -> bytes:
    return array(*map(bulk, texts))


SERVER = bulk("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n")
REPLICATION_TEXT = (
    f"role:master\r\nmaster_replid:{ID}\r\nmaster_replid2:{'0' * 40}\r\nmaster_repl_offset:77\r\n"
    "second_repl_offset:-1\r\nrepl_backlog_active:1\r\nrepl_backlog_size:1048576\r\n"
    "repl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:77\r\n"
    "slave0:ip=127.0.0.1,port=7,state=online,offset=1,lag=90\r\n"
)
REPLICATION = bulk(REPLICATION_TEXT)
TIME = words("1700000000", "123456")
LIMIT = words("client-output-buffer-limit", "normal 0 0 0 slave 1 2 3 pubsub 1 2 3")
COMMAND = array(
    array(bulk("bf.add"), b":-2\r\n", array(b"+write\r\n", b"+module\r\n"), b":1\r\n", b":1\r\n")
)
MASTER = words("name", "main", "ip", "127.0.0.1", "port", "7", "flags", "master", "quorum", "2")
USED = bulk("used_memory:9\r\n")
SAVED = bulk("loading:0\r\nrdb_last_save_time:1700000000\r\nrdb_changes_since_last_save:5\r\n")
# The library says who it is, in two commands.
GREETED = [b"+OK\r\n", b"+OK\r\n"]
# What is asked first is INFO; the first byte of a case says what is asked then.
ASKED: list[tuple[Callable[[RedisConnection], object], list[bytes]]] = [
    (keys_by_database, [bulk("db0:keys=1,expires=0\r\n")]),
    (server_moment, [TIME]),
    (probe, [TIME, REPLICATION]),
    (read_limit, [LIMIT]),
    (module_writes, [COMMAND]),
    (read_renamed, [COMMAND, COMMAND]),
    (
        lambda one: read_sentinel(one, "main"),
        [MASTER, array(MASTER), array(MASTER), b"+OK\r\n"],
    ),
    (
        lambda one: capture(one).to_sealed(),
        [
            words("port", "1", "requirepass", "x"),
            array(words("name", "bf")),
            bulk("f"),
            words("user default on"),
        ],
    ),
    (
        lambda one: check_server(read_state(one)),
        [*[LIMIT] * 15, SAVED, REPLICATION, USED, TIME],
    ),
]


def ask(content: bytes) -> None:
    question, _ = ASKED[content[0] % len(ASKED) if content else 0]
    with answering(content[1:]) as address, connect(address, Login(), answer_seconds=0.05) as one:
        question(one)


def read_backlog(content: bytes) -> None:
    lines = (line.partition(":") for line in content.decode("utf-8", "replace").splitlines())
    Backlog.parse("a Redis", {name: value for name, _, value in lines})


def follow(content: bytes) -> None:
    """A link from its first word to its end."""
    with (
        answering(content) as address,
        open_link(address, Login(), clock=SystemClock(), limits=LIMITS) as link,
    ):
        for _ in range(8):
            item = link.receive(0.2)
            if item is None or isinstance(item, StreamBytes):
                break


def link_sample() -> bytes:
    mark = b"b" * 40
    head = f"+OK\r\n+FULLRESYNC {ID} 77\r\n".encode()
    return (
        head.replace(b"+FULL", NEXT + b"+FULL")
        + b"$EOF:"
        + mark
        + b"\r\n"
        + RDBS[0]
        + mark
        + sent("PING") * 3
    )


STREAMS = [
    sent("SELECT", "0") + sent("SETEX", "k", "100", "v") + sent("MULTI") + sent("EXEC"),
    sent("RESTORE", "k", "1000", "payload")
    + sent("EXPIRE", "k", "7")
    + sent("SET", "k", "v", "EX", "5"),
    sent("CLUSTER", "SETSLOT", "7", "NODE", ID)
    + sent("FUNCTION", "FLUSH")
    + sent("EVAL", "x", "0"),
]
NODES = (
    f"{ID} 10.0.0.1:7001@17001,host myself,master - 0 0 1 connected 0-8191 [93->-{ID}]\n"
    f"{'b' * 40} 10.0.0.2:7001@17001 master - 0 0 2 connected 8192-16383\n"
    f"{'c' * 40} :0@0 slave,noaddr {ID} 0 0 2 disconnected\n"
)
CONFIG = {
    "format": 1, "product": "redis", "version": "7.0.15", "settings": {"port": "1"},
    "secrets": {"requirepass": "x"}, "acl_rules": ["user default on"], "modules": ["bf"],
    "functions": "YQ==",
}  # fmt: skip

READERS = [
    Reader(name="Redis RDB", read=read_rdb, samples=RDBS),
    Reader(name="Redis RDB written anew", read=write_anew, samples=RDBS),
    Reader(name="Redis RDB database", read=read_database, samples=RDBS),
    Reader(name="Redis stream", read=read_stream, samples=STREAMS),
    Reader(name="Redis stream cut", read=cut_stream, samples=STREAMS),
    Reader(name="Redis nodes", read=read_nodes, samples=[NODES.encode()]),
    Reader(name="Redis configuration", read=read_config, samples=[json.dumps(CONFIG).encode()]),
    Reader(name="Redis mark", read=read_mark, samples=[b"2026-11-29T10:00:00+00:00"]),
    Reader(name="Redis backlog", read=read_backlog, samples=[REPLICATION_TEXT.encode()]),
    Reader(
        name="Redis answers",
        read=ask,
        samples=[
            bytes((number,)) + NEXT.join([*GREETED, SERVER, *answers])
            for number, (_, answers) in enumerate(ASKED)
        ],
    ),
    Reader(name="Redis link", read=follow, samples=[link_sample()]),
]


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_mutated_bytes_of_a_redis_are_refused_with_one_kind_of_error(reader: Reader) -> None:
    run_short(reader)


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_long_mutated_bytes_of_a_redis_are_refused_with_one_kind_of_error(
    reader: Reader, long_run: LongRun
) -> None:
    long_run(reader)


@pytest.mark.parametrize("name", [b"a", b"x" * 2**20])
def test_a_fact_of_a_terabyte_is_refused_soon_and_with_little_memory(name: bytes) -> None:
    """It says that it has 2^40 bytes, and goes on as long as it is read."""
    head = b"REDIS0010\xfa" + write_string(name) + b"\x81" + (1 << 40).to_bytes(8, "big")
    sent_bytes = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent_bytes
        yield head
        while sent_bytes < 1 << 30:
            sent_bytes += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(NotRecoverable, match="larger than 64 MiB"):
        list(RdbWalker(endless()))

    assert sent_bytes <= 160 << 20


@pytest.mark.parametrize("cut", range(0, len(RDBS[0]), 7))
def test_keys_are_counted_to_the_end_or_not_at_all(cut: int) -> None:
    for content in (RDBS[0][:cut], RDBS[0][:cut] + b"\xee" + RDBS[0][cut + 1 :]):
        count = KeyCount()
        count.feed(memoryview(content))
        try:
            found = count.finish()
        except IntegrityError:
            continue
        assert isinstance(found, str) or sum(found.values()) == 7, found
