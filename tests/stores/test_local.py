"""A directory as a store: durable order, odd file systems, crashes, links."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtool.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    PlaceMissing,
    RepositoryUnavailable,
    StoreFull,
)
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock

NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, clock=SystemClock())


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach."""
    directory = Path(tempfile.mkdtemp(prefix="drtool-store-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Without root's rights for a while; nothing changes for whom has none."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(directory: Path) -> list[str]:
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


def test_a_file_is_synced_before_it_has_its_name_and_its_directories_after(
    tmp_path: Path,
) -> None:
    """PITFALLS 6: the order of the system calls, as the kernel saw them."""
    root = tmp_path / "root"
    root.mkdir()
    trace = tmp_path / "trace"
    program = (
        "from pathlib import Path; from drtool.stores.local import LocalStore; "
        "from drtool.system.clock import SystemClock; "
        f"LocalStore(Path({str(root)!r}), clock=SystemClock()).create('new/dir/key', [b'content'])"
    )
    calls = "trace=openat,write,fsync,fdatasync,link,linkat,rename,renameat2,mkdir,unlink,close"
    subprocess.run(
        ["strace", "-y", "-s", "200", "-e", calls, "-o", trace, sys.executable, "-c", program],
        check=True,
        cwd=REPOSITORY,
        timeout=60,
    )

    steps = []
    for line in trace.read_text().splitlines():
        call = line.split("(")[0]
        pattern = r"<([^>]+)>" if call in ("fsync", "fdatasync", "write") else r'"([^"]+)"'
        if str(root) in line and call in (
            "mkdir",
            "link",
            "linkat",
            "rename",
            "renameat2",
            "fsync",
            "fdatasync",
            "write",
        ):
            paths = re.findall(pattern, line)
            steps.append(f"{call} {paths[0] if pattern[0] == '<' else paths[-1]}")
    named = [re.sub(r"\.drtool-.*\.tmp", "TEMPORARY", step) for step in steps]

    assert named == [
        f"mkdir {root}/new",
        f"fsync {root}",
        f"mkdir {root}/new/dir",
        f"fsync {root}/new",
        f"write {root}/new/dir/TEMPORARY",
        f"fsync {root}/new/dir/TEMPORARY",
        f"link {root}/new/dir/key",
        f"fsync {root}/new/dir",
    ]


def test_only_the_owner_may_look(store: LocalStore, tmp_path: Path) -> None:
    store.create("a/b/key", [b"x"])

    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b/key").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_said_and_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    with files_no_larger_than(100_000):
        store.create("dir/small", [b"x" * 50_000])
        with pytest.raises(StoreFull, match=r"dir/large cannot be written: file too large"):
            store.create("dir/large", [b"x" * 60_000, b"y" * 60_000])
        with pytest.raises(StoreFull):
            store.replace_if("dir/lease", b"x" * 200_000, None)

    assert [one.key for one in store.list("")] == ["dir/small"]
    assert [name for name in files_of(tmp_path) if "small" not in name] == [".drtool-lock.tmp"]
    store.create("dir/large", [b"x" * 120_000])
    assert len(store.read("dir/large")) == 120_000


def test_a_directory_without_rights_is_said(open_directory: Path) -> None:
    closed = open_directory / "root" / "closed"
    closed.mkdir(parents=True)
    (closed / "key").write_bytes(b"x")
    (closed / "key").chmod(0)
    closed.chmod(0o555)
    (open_directory / "root" / "dark").mkdir()
    (open_directory / "root" / "dark").chmod(0)
    if os.geteuid() == 0:
        os.chown(closed, NOBODY, NOBODY)
        os.chown(closed / "key", NOBODY, NOBODY)
        os.chown(open_directory / "root" / "dark", NOBODY, NOBODY)
    store = LocalStore(open_directory / "root", clock=SystemClock())

    with as_ordinary_user():
        for call in (
            lambda: store.create("closed/other", [b"x"]),
            lambda: store.create("closed/dir/other", [b"x"]),
            lambda: store.read("closed/key"),
            lambda: store.delete("closed/key"),
            lambda: store.stat("dark/key"),
            lambda: list(store.list("")),
        ):
            with pytest.raises(AccessDenied) as caught:
                call()
            assert caught.value.hint

    (open_directory / "root" / "dark").chmod(0o755)
    closed.chmod(0o755)


def test_a_crashed_writer_leaves_nothing_that_counts_and_blocks_nobody(tmp_path: Path) -> None:
    """PITFALLS 6, 7: an orphan of a crashed push, and a file of no bytes."""
    program = (
        "import sys; from pathlib import Path; from drtool.stores.local import LocalStore\n"
        "from drtool.system.clock import SystemClock\n"
        f"store = LocalStore(Path({str(tmp_path)!r}), clock=SystemClock())\n"
        "class Stuck:\n"
        "    def __len__(self): return 2\n"
        "    def __getitem__(self, n):\n"
        "        if n == 0: return b'begun'\n"
        "        print('now', flush=True); sys.stdin.read()\n"
        "store.create('wal/segment', Stuck())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdin.close()
    process.stdout.close()
    (tmp_path / "wal/.drtool-empty.tmp").touch()
    store = LocalStore(tmp_path, clock=SystemClock())

    assert len(list((tmp_path / "wal").iterdir())) == 2, "the crash left its unfinished file"
    assert list(store.list("")) == []
    assert store.list_directories("") == []
    assert store.stat("wal/segment") is None
    store.create("wal/segment", [b"whole"])
    assert store.read("wal/segment") == b"whole"
    assert [one.key for one in store.list("")] == ["wal/segment"]


def test_a_file_cut_behind_our_back_is_never_data(store: LocalStore, tmp_path: Path) -> None:
    """PITFALLS 6: a short object is never delivered where its length is known."""
    store.create("key", [b"0123456789"])
    os.truncate(tmp_path / "key", 5)

    with pytest.raises(IntegrityError, match="shorter"):
        store.read_range("key", 0, 10)


def test_links_out_of_the_directory_are_not_followed(store: LocalStore, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as outside:
        Path(outside, "secret").write_bytes(b"secret")
        (tmp_path / "away").symlink_to(outside)
        (tmp_path / "file").symlink_to(Path(outside, "secret"))

        assert list(store.list("")) == []
        assert store.list_directories("") == []
        for key in ("away/secret", "away/new", "file"):
            for call in (
                lambda key=key: store.read(key),
                lambda key=key: store.stat(key),
                lambda key=key: store.create(key, [b"mine"]),
                lambda key=key: store.replace_if(key, b"mine", b"secret"),
                lambda key=key: store.delete(key),
            ):
                with pytest.raises(RepositoryUnavailable, match="symbolic link"):
                    call()
        assert os.listdir(outside) == ["secret"]
        assert Path(outside, "secret").read_bytes() == b"secret"


def test_what_is_not_an_object_is_not_listed(store: LocalStore, tmp_path: Path) -> None:
    store.create("dir/key", [b"x"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/dir/not-utf8-\xff")).write_bytes(b"x")
    (tmp_path / "dir/back\\slash").write_bytes(b"x")
    (tmp_path / "dir/new\nline").write_bytes(b"x")
    os.mkfifo(tmp_path / "dir/fifo")
    (tmp_path / "empty/below").mkdir(parents=True)

    assert [one.key for one in store.list("")] == ["dir/key"]
    assert store.list_directories("") == ["dir"]
    assert store.stat("dir/fifo") is None
    assert store.stat("dir") is None
    assert store.stat("dir/key/below") is None


def test_a_directory_of_any_name_can_be_the_root(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/zazolc \xff?#%20"))
    root.mkdir()
    store = LocalStore(root, clock=SystemClock())

    store.create("key", [b"x"])

    assert store.read("key") == b"x"
    assert store.url.endswith("/zazolc%20%FF%3F%23%2520")


def test_a_disk_that_went_away_is_not_an_empty_repository(tmp_path: Path) -> None:
    """STYLE 7: "it is not there" and "I could not look" are never the same answer."""
    root = tmp_path / "mounted"
    root.mkdir()
    store = LocalStore(root, clock=SystemClock())
    store.create("key", [b"x"])

    root.rename(tmp_path / "elsewhere")
    for _ in ("gone", "an empty mount point"):
        for call in (
            lambda: store.read("key"),
            lambda: store.stat("key"),
            lambda: store.stat("other"),
            lambda: list(store.list("")),
            lambda: list(store.list("dir/")),
            lambda: store.list_directories(""),
            lambda: store.create("key", [b"x"]),
            lambda: store.replace_if("key", b"x", None),
        ):
            with pytest.raises(PlaceMissing):
                call()
        if not root.exists():
            root.mkdir()

    assert files_of(root) == []


def test_an_object_where_a_directory_is_needed_is_an_error_in_words(store: LocalStore) -> None:
    store.create("a", [b"x"])
    store.create("b/c", [b"x"])

    with pytest.raises(RepositoryUnavailable, match="a/b cannot be written"):
        store.create("a/b", [b"x"])
    with pytest.raises((AlreadyExists, RepositoryUnavailable)):
        store.create("b", [b"x"])


def test_creating_and_deleting_side_by_side_loses_nothing(store: LocalStore) -> None:
    """A delete removes empty directories, perhaps the one that a create has just made."""
    from concurrent.futures import ThreadPoolExecutor

    def work(number: int) -> None:
        for round_number in range(60):
            key = f"deep/er/{number}-{round_number}"
            store.create(key, [b"x"])
            store.delete(key)
        store.create(f"deep/er/kept-{number}", [b"x"])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))

    assert [one.key for one in store.list("")] == [f"deep/er/kept-{n}" for n in range(6)]
