"""Root follows nobody's links: what the owner of a destination, or of the directory above it, plants there.

Each attack is a real one: the link is made where that user could make it, and root works on. Without
root's rights there is nothing to be gained, and the same restores go the same way.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drtool.errors import DrtoolError, IntegrityError, NotRecoverable
from drtool.model.progress import Event, PhaseAdvanced, PhaseEnded, silent
from drtool.model.target import ToLatest
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.restore.destination import Destination, check_destination, make_destination
from drtool.restore.fetch import fetch_files
from drtool.restore.look import look
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan, plan_restore
from drtool.restore.ring import RING, WalRing
from drtool.restore.settle import prepare_recovery
from drtool.restore.supply import WalSupply
from drtool.sources.files.placing import TreeWriter
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.control import read_control
from drtool.sources.postgres.server import ServerPlan, start_server
from drtool.sources.redis.binaries import Checking, RedisBinaries, check_rdb
from drtool.sources.redis.release import Product, parse_release
from drtool.sources.redis.server import ScratchPlan, start_scratch
from drtool.system.acting import acting_as
from drtool.system.beneath import open_real
from drtool.system.clock import SystemClock
from drtool.system.users import RunAs, choose_user
from tests.backup.tree_taking import bring_back, snapshot
from tests.files.test_placing import entry, put
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    a_tree,
    new_repository,
    put_segments,
    store_tree,
)
from tests.restore.test_ring import SHORT, ask, name

SOURCE = "main"
CLOCK = SystemClock()
LABEL = {"backup_label": b"START WAL LOCATION: 0/200028 (file x)\n"}
PRECIOUS = "nobody but root may write or read this"


@pytest.fixture
def shared(root: Path) -> Path:
    """A directory of the servers' user."""
    root.chmod(0o755)
    return root


@pytest.fixture
def secret() -> Iterator[Path]:
    """A directory of root's with one file, closed to everybody else."""
    with tempfile.TemporaryDirectory(prefix="drtool-secret-") as directory:
        (Path(directory) / "precious").write_text(PRECIOUS)
        (Path(directory) / "precious").chmod(0o600)
        yield Path(directory)


def untouched(secret: Path) -> bool:
    """Whether nothing was added, changed or given away."""
    status = (secret / "precious").stat()
    return (
        os.listdir(secret) == ["precious"]
        and (secret / "precious").read_text() == PRECIOUS
        and (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o600)
    )


def swapped(place: Path, target: Path) -> None:
    """What stood at `place` goes beside it, and a link takes its name."""
    place.rename(place.with_name(place.name + ".was"))
    place.symlink_to(target)


def planned(repository: Repository) -> RestorePlan:
    put_segments(repository, range(2, 30))
    return plan_restore(look(repository, SOURCE, ToLatest()), ToLatest())


def made(plan: RestorePlan, into: Path) -> Destination:
    destination = check_destination(plan, into, owner=choose_user(into), tablespaces={})
    make_destination(destination)
    return destination


def a_backup(tmp_path: Path, files: dict[str, bytes]) -> Repository:
    repository = new_repository()
    tree = a_tree(tmp_path / "tree", {**LABEL, **files})
    store_tree(repository, tree, extent=EXTENT_OF_BACKUP)
    return repository


def test_a_link_in_the_ring_leads_to_no_file_of_roots(
    tmp_path: Path, shared: Path, secret: Path
) -> None:
    """The owner plants a link under the name of each segment, and where the next ones come through."""
    repository = a_backup(tmp_path, {})
    plan = planned(repository)
    data = made(plan, shared / "copy").data
    (data / "pg_wal").mkdir()
    os.chown(data / "pg_wal", data.stat().st_uid, data.stat().st_gid)
    owner = choose_user(data)
    supply = WalSupply(repository, plan, clock=CLOCK, patience=SHORT)

    with WalRing(supply, data, owner=owner, clock=CLOCK):
        for number in range(19, 30):
            (data / RING / "coming" / name(number)).symlink_to(secret / "precious")
        codes = [ask(data, name(number)) for number in range(2, 12)]
        swapped(data / RING / "absent", secret)
        swapped(data / RING / "coming", secret)
        codes += [ask(data, name(number)) for number in (12, 13, 14, 900)]

    assert codes[:10] == [0] * 10
    assert untouched(secret)


def test_a_directory_that_becomes_a_link_while_files_are_fetched_gets_none_of_them(
    tmp_path: Path, shared: Path, secret: Path
) -> None:
    large = {"base/1/10": bytes(40 << 20), "base/1/2": b"x", "base/1/3": b"y"}
    repository = a_backup(tmp_path, large)
    plan = planned(repository)
    destination = made(plan, shared / "copy")
    attacks: list[Event] = []

    def emit(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and not attacks:
            attacks.append(event)
            swapped(destination.data / "base" / "1", secret)

    # Where the link leads there is a file of a name that the backup has, too.
    theirs = secret / "10"
    theirs.write_text(PRECIOUS)
    reader = ChunkReader(repository.store, repository.ring)
    with pytest.raises(DrtoolError, match=r"base/1/.* cannot be written"):
        fetch_files(plan.manifest, reader, destination, workers=1, phases=Phases(CLOCK, emit))

    assert attacks
    assert theirs.read_text() == PRECIOUS
    theirs.unlink()
    assert untouched(secret)


def test_what_root_alone_may_read_does_not_come_into_the_copy(
    tmp_path: Path, shared: Path, secret: Path
) -> None:
    """The configuration is kept beside drtool's own: through a link it would be anybody's file."""
    repository = a_backup(tmp_path, {"postgresql.conf": b"", "postgresql.auto.conf": b""})
    plan = planned(repository)
    destination = made(plan, shared / "copy")
    reader = ChunkReader(repository.store, repository.ring)
    fetch_files(plan.manifest, reader, destination, workers=1, phases=Phases(CLOCK, silent))

    swapped(destination.data / "postgresql.conf", secret / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        prepare_recovery(plan.manifest, destination)

    assert not (destination.data / "postgresql.conf.source").exists()
    assert untouched(secret)


def a_program(directory: Path, program: str, script: str) -> Path:
    path = directory / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_log_planted_beside_the_socket_is_neither_written_nor_read(
    shared: Path, secret: Path, kind: str
) -> None:
    """The program, which runs as the server's user, puts a link where its own log is to be."""
    link = f"ln -sf {secret}/precious $place/server.log 2>/dev/null"
    plant = f"for place in {shared}/drtool-*; do {link}; done; echo planted >&2"
    program = "postgres" if kind == "postgres" else "redis-server"
    path = a_program(shared, program, plant)
    user = choose_user(shared)

    if kind == "postgres":
        binaries = ServerBinaries(bin_dir=shared, version="15.1", major=15)
        plan = ServerPlan(data_directory=shared, binaries=binaries, run_as=user, settings={})
        server = start_server(plan, clock=CLOCK, scratch=shared)
        with server, pytest.raises(NotRecoverable) as told:
            server.wait_ready(timeout_seconds=20)
    else:
        redis = RedisBinaries(server=path, release=parse_release(Product.REDIS, "7.0.0"))
        scratch = ScratchPlan(directory=shared, binaries=redis, run_as=user, uses_aof=False)
        copy = start_scratch(scratch, clock=CLOCK, scratch=shared)
        with copy, pytest.raises(NotRecoverable) as told:
            copy.wait_loaded(timeout_seconds=20)

    assert untouched(secret)
    assert "planted" in told.value.hint
    assert PRECIOUS not in told.value.hint


def test_programs_that_read_restored_files_run_as_their_owner(shared: Path) -> None:
    who = "id -u >&2; exit 1"
    a_program(shared, "pg_controldata", who)
    a_program(shared, "redis-check-rdb", who)
    user = choose_user(shared)
    binaries = ServerBinaries(bin_dir=shared, version="15.1", major=15)
    release = parse_release(Product.REDIS, "7.0.0")
    redis = RedisBinaries(server=shared / "redis-server", release=release)

    with pytest.raises(IntegrityError, match=f"cannot be read: {user.uid}$"):
        read_control(shared, binaries, run_as=user)
    with pytest.raises(IntegrityError, match=f"damaged: {user.uid}$"):
        check_rdb(shared / "x.rdb", Checking(binaries=redis, scratch=shared, run_as=user))


def test_a_destination_swapped_while_a_tree_comes_back_gets_nothing_and_is_told(
    tmp_path: Path, shared: Path, secret: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "shadow").write_text("root::0:0")
    repository = new_repository()
    snapshot(repository, tree)
    for phase in ("provision", "fetch", "finish"):
        place = shared / phase

        def emit(event: Event, place: Path = place, phase: str = phase) -> None:
            if isinstance(event, PhaseEnded) and event.phase == phase:
                swapped(place, secret)

        with pytest.raises(DrtoolError):
            bring_back(repository, place, phases=Phases(CLOCK, emit))

    assert untouched(secret)


def test_a_changed_tree_gives_away_no_file_that_has_a_name_outside(
    tmp_path: Path, shared: Path, secret: Path
) -> None:
    """A file of root's with the content of one of the tree's stands in its place, by a second name."""
    tree, place = tmp_path / "tree", shared / "place"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "a").write_text(PRECIOUS)
    (tree / "below" / "a").chmod(0o666)
    (tree / "below" / "link").symlink_to("nowhere")
    if os.geteuid() == 0:
        for path in (tree / "below", tree / "below" / "a"):
            os.chown(path, 65534, 65534)
        os.chown(tree / "below" / "link", 65534, 65534, follow_symlinks=False)
    repository = new_repository()
    snapshot(repository, tree)
    bring_back(repository, place)
    (place / "below" / "a").unlink()
    # On another file system the attack is not possible, and neither is the second name.
    near = shared / "near"
    near.mkdir(mode=0o700)
    (near / "precious").write_text(PRECIOUS)
    (near / "precious").chmod(0o600)
    os.link(near / "precious", place / "below" / "a")
    written = (tree / "below" / "a").stat()
    os.utime(place / "below" / "a", ns=(written.st_mtime_ns, written.st_mtime_ns))

    bring_back(repository, place, is_delta=True)

    assert untouched(near)
    restored = (place / "below" / "a").stat()
    assert (restored.st_uid, restored.st_mode) == (written.st_uid, written.st_mode)
    assert os.lstat(place / "below" / "link").st_uid == os.lstat(tree / "below" / "link").st_uid


def test_an_empty_directory_of_another_user_is_restored_into_and_given_back(shared: Path) -> None:
    """Root takes it over meanwhile, so that nobody else puts anything there."""
    place = shared / "place"
    place.mkdir()
    owner = choose_user(shared)
    os.chown(place, owner.uid, owner.gid)
    place.chmod(0o2775)

    writer = TreeWriter(place)
    meanwhile = place.stat()
    put(writer, entry(b"part/a", uid=owner.uid, gid=owner.gid), b"a")
    findings = writer.finish()

    assert findings == []
    assert (meanwhile.st_uid, stat.S_IMODE(meanwhile.st_mode)) == (0, 0o700) or os.geteuid() != 0
    assert (place / "part" / "a").read_bytes() == b"a"
    status = place.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner.uid, 0o2775)


def test_a_directory_is_opened_by_its_real_path_or_not_at_all(shared: Path) -> None:
    (shared / "real" / "below").mkdir(parents=True)
    (shared / "link").symlink_to(shared / "real")

    os.close(open_real(shared / "real" / "below"))
    for path in ("link", "link/below"):
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            open_real(shared / path)


def test_a_thread_that_acts_as_somebody_makes_what_is_theirs_and_no_more(
    shared: Path, secret: Path
) -> None:
    """The other threads, and the programs that they start, are root's meanwhile."""
    user: RunAs = choose_user(shared)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(os.getpid).result()
        with acting_as(user):
            (shared / "made").touch()
            here = os.access(secret / "precious", os.R_OK, effective_ids=False)
            try:
                (secret / "precious").read_text()
                may_read = True
            except PermissionError:
                may_read = False
            there = pool.submit((secret / "precious").read_text).result()
    told = subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout

    assert (shared / "made").stat().st_uid == user.uid
    assert may_read is user.is_us
    assert here
    assert there == PRECIOUS
    assert told.strip() == str(os.geteuid())
    assert (secret / "precious").read_text() == PRECIOUS
