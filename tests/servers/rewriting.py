"""A relay in front of a server that changes words in its answers, for versions that no wheel brings."""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_BLOCK_BYTES = 1 << 20
_WAIT_SECONDS = 0.2
# The end of a snapshot that a server sends without a file on disk.
_MARK = re.compile(rb"\$EOF:(\w{40})\r\n")


@contextmanager
def rewritten(
    port: int, changes: Mapping[bytes, bytes], *, behind_rdb: bytes = b""
) -> Iterator[int]:
    """The port of a relay to `port` of loopback; a word and what takes its place have one length.

    A word must lie whole in what the server sends at once, as the beginning of an answer does.
    `behind_rdb` is put behind each snapshot that a Redis sends to a replica, as a part of it.
    """
    assert all(len(word) == len(other) for word, other in changes.items())
    stopped = threading.Event()
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(_WAIT_SECONDS)

    def accept() -> None:
        while not stopped.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(
                threading.Thread(target=_relay, args=(client, port, changes, behind_rdb, stopped))
            )
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopped.set()
        acceptor.join()
        for thread in threads:
            thread.join()
        listener.close()


def _relay(
    client: socket.socket,
    port: int,
    changes: Mapping[bytes, bytes],
    behind_rdb: bytes,
    stopped: threading.Event,
) -> None:
    mark = b""
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        while not stopped.is_set():
            ready, _, _ = select.select([client, server], [], [], _WAIT_SECONDS)
            try:
                for side, other in ((client, server), (server, client)):
                    if side not in ready:
                        continue
                    block = side.recv(_BLOCK_BYTES)
                    if not block:
                        return
                    if side is server:
                        for word, instead in changes.items():
                            block = block.replace(word, instead)
                        if behind_rdb and (head := _MARK.search(block)):
                            mark, begin = head[1], head.end()
                            block = block[:begin] + block[begin:].replace(mark, behind_rdb + mark)
                        elif mark:
                            block = block.replace(mark, behind_rdb + mark)
                    other.sendall(block)
            except OSError:
                return  # one side hung up
