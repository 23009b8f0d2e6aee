"""`drtool-wal push %p`: what archive_command runs. Hands the file to a warm process, waits, and exits.

PostgreSQL starts it once per segment and waits for it, so it imports the standard library alone. The
warm process is `drtool wal receive SOURCE` of a policy with `wal: {mode: push}`. The open file itself
is passed over a Unix socket: the warm process needs no right to read the data directory.

Exit codes: 0 once the file is durable in the repository; 1 to 125 otherwise, so that PostgreSQL keeps
the segment, counts the failure and tries again. Never more, also when killed: PostgreSQL takes a higher
code for a crash, restarts its archiver and counts nothing (PITFALLS 8).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from types import FrameType

USAGE = 2
UNAVAILABLE = 6
FAILED = 1
LARGEST_EXIT = 125
ANSWER_SECONDS = 60.0
LONGEST_ANSWER_BYTES = 4096
_TEXT = (
    "usage: drtool-wal push [--source NAME | --socket PATH] [--timeout SECONDS] FILE\n"
    "archive_command = 'drtool-wal push --source NAME %p'"
)


class PushFailed(Exception):
    """The file is not archived; `exit_code` says of what kind the reason is."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> None:
    """The entry point: exit with 0 or a code from 1 to 125, whatever happens."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _killed)
    try:
        code = run(sys.argv[1:])
    except PushFailed as failure:
        _say(str(failure))
        code = failure.exit_code
    except BaseException as error:  # noqa: BLE001 - any other end would be above 125
        _say(f"{type(error).__name__}: {error}")
        code = FAILED
    sys.exit(min(max(code, 0), LARGEST_EXIT))


def run(arguments: list[str]) -> int:
    """Push what the command line names; 0 once it is durable. PushFailed says why it is not."""
    options, files = _parsed(arguments)
    if len(files) != 2 or files[0] != "push":
        raise PushFailed(_TEXT, USAGE)
    try:
        timeout_seconds = float(options.get("--timeout", ANSWER_SECONDS))
    except ValueError:
        raise PushFailed(_TEXT, USAGE) from None
    place = options.get("--socket") or socket_path(options.get("--source"))
    return _hand_over(files[1], place, timeout_seconds)


def socket_path(source: str | None) -> str:
    """Where the warm process of `source` listens; without a name, the only one that there is."""
    directory = socket_directory()
    if source is not None:
        return os.path.join(directory, f"{source}.sock")
    if named := os.environ.get("DRTOOL_WAL_SOCKET"):
        return named
    try:
        found = sorted(name for name in os.listdir(directory) if name.endswith(".sock"))
    except OSError:
        found = []
    if len(found) > 1:
        raise PushFailed(f"{directory} holds {', '.join(found)}: say --source NAME", USAGE)
    if not found:
        raise PushFailed(_not_running(directory), UNAVAILABLE)
    return os.path.join(directory, found[0])


def socket_directory() -> str:
    """$XDG_RUNTIME_DIR/drtool, or /run/drtool where there is none."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime, "drtool") if runtime else "/run/drtool"


def _parsed(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    files: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--socket", "--source", "--timeout"):
            value = next(rest, None)
            if value is None:
                raise PushFailed(_TEXT, USAGE)
            options[argument] = value
        elif argument.startswith("-"):
            raise PushFailed(_TEXT, USAGE)
        else:
            files.append(argument)
    return options, files


def _hand_over(file: str, place: str, timeout_seconds: float) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PushFailed(f"{file} cannot be read: {os.strerror(error.errno or 0)}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            _connect(connection, place, timeout_seconds)
        except OSError as error:
            raise PushFailed(f"{_not_running(place)} ({error.strerror})", UNAVAILABLE) from error
        try:
            name = os.path.basename(file).encode("utf-8", "surrogateescape")
            with contextlib.suppress(BrokenPipeError):  # turned away: the answer says why
                socket.send_fds(connection, [name + b"\n"], [descriptor])
            answer = _answer(connection)
        except OSError as error:
            raise PushFailed(f"no answer from {place}: {error}", UNAVAILABLE) from error
    code, _, message = answer.partition(" ")
    if not code.isdigit():
        raise PushFailed(f"{place} broke off before it had answered", UNAVAILABLE)
    if int(code):
        raise PushFailed(message, int(code))
    return 0


def _connect(connection: socket.socket, place: str, timeout_seconds: float) -> None:
    """Connect; where many others wait to be let in, wait with them.

    By the kernel's own time limit: Python's would give up at once where the queue is full.
    """
    seconds = int(timeout_seconds)
    limit = struct.pack("ll", seconds, int((timeout_seconds - seconds) * 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    connection.connect(place)
    connection.settimeout(timeout_seconds)


def _answer(connection: socket.socket) -> str:
    """`0` or `CODE MESSAGE`, up to the line's end; cut short if the connection was."""
    answer = b""
    while not answer.endswith(b"\n"):
        piece = connection.recv(LONGEST_ANSWER_BYTES)
        if not piece or len(answer) > LONGEST_ANSWER_BYTES:
            return ""
        answer += piece
    text = answer.decode("utf-8", "replace").strip()
    # It goes into the server's log, which people read on terminals.
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)


def _not_running(place: str) -> str:
    return (
        f"no drtool process takes WAL at {place}; start `drtool wal receive SOURCE` with"
        " `wal: {mode: push}` in the policy"
    )


def _say(text: str) -> None:
    """To the server's log, where PostgreSQL sends what its archive_command prints."""
    sys.stderr.write(f"drtool-wal: {text}\n")


def _killed(number: int, _frame: FrameType | None) -> None:
    raise PushFailed(f"ended by signal {number} before the file was durable")


if __name__ == "__main__":
    main()
