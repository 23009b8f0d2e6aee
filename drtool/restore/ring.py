"""WAL handed to a replay: read ahead by us, taken by PostgreSQL with a rename and no Python start.

`pg_wal/.drtool/` of the restored copy holds `ready/` (whole segments), `want/` (names PostgreSQL
asks for), `absent/` (names that surely do not exist) and `fault`. The restore_command is a few lines
of POSIX shell: it takes what is ready, and else asks and looks again. Its exit codes keep promise 4:
0 delivered, 1 surely not there, 250 could not look, which stops PostgreSQL instead of promoting a
shortened database (PITFALLS 39, section 0).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import DestinationRefused, DrtoolError, RepositoryUnavailable
from drtool.model.wal import WalSegment
from drtool.restore.supply import WalSupply
from drtool.restore.tablespaces import LinkLeadsOutside
from drtool.system.clock import Clock
from drtool.system.owned_directory import OwnedDirectory
from drtool.system.users import RunAs

RING = Path("pg_wal/.drtool")
READ_AHEAD_BYTES = 256 << 20
MOST_AHEAD = 16
READERS = 2
_POLL_SECONDS = 0.005
# 30,000 looks of 10 ms and the sleep's own start: about five minutes, then it gives up aloud.
_LOOKS = 30_000

# Runs in the data directory, so no path of ours needs quoting. No redirection on a special builtin
# and no script file: a shell that fails at either exits with 2, which PostgreSQL reads as "not there".
RESTORE_COMMAND = f"""d={RING}; f=%f; n=0; [ -d $d/want ] || exit 250
while :; do
if [ -e $d/ready/$f ]; then mv $d/ready/$f "%p" || exit 250; exit 0; fi
if [ -e $d/fault ]; then exit 250; fi
if [ -e $d/absent/$f ]; then exit 1; fi
n=$((n+1)); if [ $n -gt {_LOOKS} ]; then exit 250; fi
if [ ! -e $d/want/$f ]; then true 2>/dev/null >$d/want/$f || exit 250; fi
sleep 0.01 || exit 250
done; exit 250"""

# What a copy whose replay failed is left with: starting it by hand stops at once, never promotes.
REFUSING_COMMAND = (
    'echo "drtool: this restore was not finished; it must not be started" >&2; exit 250'
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What PostgreSQL needed and could not be given."""

    name: str
    error: DrtoolError


class WalRing:
    """Feeds one replay in `data`. Enter it before the server starts; leave it when it has stopped.

    At most 16 segments lie ready, at most 256 MiB of them. `taken` counts the planned segments that
    PostgreSQL has passed; `fault` is why it was refused one, `bug` what should not happen. `read` is
    what a file is read with, if not by `supply` itself.
    """

    def __init__(
        self,
        supply: WalSupply,
        data: Path,
        *,
        owner: RunAs,
        clock: Clock,
        read: Callable[[str], bytes | None] | None = None,
    ) -> None:
        self._supply = supply
        self._read = read or supply.read
        self._data = data
        self._owner = owner
        self._place: OwnedDirectory | None = None
        self._clock = clock
        self._segments: Sequence[WalSegment] = supply.planned
        self._number = {supply.name(s): n for n, s in enumerate(supply.planned)}
        self._ahead = max(2, min(MOST_AHEAD, READ_AHEAD_BYTES // supply.segment_bytes))
        self._next = 0
        self.taken = 0
        self._placed: set[str] = set()
        self._loading: dict[str, Future[bool]] = {}
        self._asked: set[str] = set()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="wal-read")
        self._thread = threading.Thread(target=self._run, name="wal-ring", daemon=True)
        self.fault: Fault | None = None
        self.bug: BaseException | None = None

    def __enter__(self) -> WalRing:
        self._place = OwnedDirectory(self._data, self._owner)
        self._place.make_directory(str(RING))
        for name in ("ready", "want", "absent", "coming"):
            self._place.make_directory(_in(name))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._supply.stop()
        self._thread.join(60)
        self._pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(OSError):
            self._directory.remove_tree(str(RING))
        self._directory.close()

    @property
    def _directory(self) -> OwnedDirectory:
        """The data directory: its owner can put what he likes into the ring, but no link is followed."""
        assert self._place is not None
        return self._place

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self.fault is None:
                self._turn()
                self._clock.wait(_POLL_SECONDS, self._stop)
        except OSError as error:
            # The disk below pg_wal: the replay cannot go on, and the caller is told why.
            self._fail(str(RING), self._unwritable(error))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that watches the server
            self.bug = error
            self._cry()

    def _turn(self) -> None:
        self._collect()
        ready = set(self._directory.names(_in("ready")))
        self._note_taken(ready)
        for wanted in self._directory.names(_in("want")):
            self._answer(wanted, ready)
        while (
            self._next < len(self._segments)
            and len(ready) + len(self._loading) < self._ahead
            and self._next < self.taken + self._ahead
        ):
            self._load(self._supply.name(self._segments[self._next]))
            self._next += 1

    def _collect(self) -> None:
        """Take in what the readers finished.

        A damaged segment matters only once PostgreSQL asks for it; a store that is away matters now,
        since every further name would wait as long.
        """
        for name, future in list(self._loading.items()):
            if not future.done():
                continue
            del self._loading[name]
            error = future.exception()
            if error is None:
                if future.result():
                    self._placed.add(name)
                elif name in self._asked:
                    self._directory.touch(_in("absent", name))
            elif not isinstance(error, DrtoolError | OSError):
                raise error
            elif name in self._asked or isinstance(error, RepositoryUnavailable | LinkLeadsOutside):
                known = error if isinstance(error, DrtoolError) else self._unwritable(error)
                self._fail(name, known)
            self._asked.discard(name)

    def _note_taken(self, ready: set[str]) -> None:
        gone = self._placed - ready
        if not gone:
            return
        self._placed -= gone
        taken = max((self._number[name] + 1 for name in gone if name in self._number), default=0)
        if taken > self.taken:
            self.taken = taken
            # A segment that was laid out twice, and that the replay has passed.
            for name in ready & self._placed:
                if self._number.get(name, taken) < taken:
                    self._directory.remove(_in("ready", name))
                    self._placed.discard(name)

    def _answer(self, name: str, ready: set[str]) -> None:
        """Answer one wish. It is struck out first: a wish that is repeated is answered again."""
        self._directory.remove(_in("want", name))
        if name in ready or self._directory.exists(_in("absent", name)):
            return
        if not self._supply.has(name):
            self._directory.touch(_in("absent", name))
            return
        self._asked.add(name)
        if name not in self._loading:
            self._load(name)
        if name in self._number:
            self._next = max(self._next, self._number[name] + 1)

    def _load(self, name: str) -> None:
        self._loading[name] = self._pool.submit(self._bring, name)

    def _bring(self, name: str) -> bool:
        """Read one file whole and lay it out by a rename (PITFALLS 45); False if it is not there."""
        content = self._read(name)
        if content is None:
            return False
        for older, written_bytes in self._supply.taken_over(name):
            self._lay_out_older(older, content, written_bytes=written_bytes)
        self._directory.place(_in("ready", name), content, scratch=_in("coming"))
        return True

    def _lay_out_older(self, older: str, content: bytes, *, written_bytes: int) -> None:
        """The segment under the name that it had before a timeline switch within it.

        At the end of a recovery PostgreSQL reads prepared transactions from pg_wal itself, without the
        restore_command, and by the name of the timeline that it has replayed up to (read_local_xlog_page
        in xlogutils.c). The new timeline's segment begins with the same bytes. It counts as archived, as
        what a restore_command delivers does, so that a copy in production does not archive it anew.
        """
        whole = content[:written_bytes].ljust(len(content), b"\0")
        self._directory.place(f"pg_wal/{older}", whole, scratch=_in("coming"))
        if self._directory.exists("pg_wal/archive_status"):
            done = f"pg_wal/archive_status/{older}.done"
            self._directory.place(done, b"", scratch=_in("coming"))

    def _fail(self, name: str, error: DrtoolError) -> None:
        if self.fault is None:
            self.fault = Fault(name, error)
        self._cry()

    def _cry(self) -> None:
        try:
            self._directory.touch(_in("fault"))
        except OSError:
            # Then nothing is laid out any more either, and the command gives up by itself; the
            # caller has seen `fault` and stops the server.
            return

    def _unwritable(self, error: OSError) -> DestinationRefused:
        return DestinationRefused(
            f"WAL cannot be laid out in {self._data / RING}: {error.strerror}",
            hint="Make room there, remove what was restored, and run the restore again.",
        )


def _in(*names: str) -> str:
    return "/".join((str(RING), *names))
