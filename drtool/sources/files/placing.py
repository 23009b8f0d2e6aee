"""Writes a tree back: below one directory and nowhere else, whole and durable once `finish` returns."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from drtool.errors import DestinationRefused
from drtool.model.finding import Finding
from drtool.sources.files.applying import AttributeSetter, OwnerOf, is_far_time, owners_by_number
from drtool.sources.files.attributes import OwnerNames, make_entry, path_in, read_xattrs
from drtool.sources.files.entries import TreeEntry, TreeKind, kind_of, shown
from drtool.sources.files.filewriter import FileWriter, refusals
from drtool.sources.files.shortfall import Shortfalls
from drtool.system.beneath import Beneath, check_path, open_real, split
from drtool.system.durable import sync_file_systems
from drtool.system.linking import link_at, replace_at

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR


class Difference(StrEnum):
    """How what stands in an entry's place differs from it, as far as can be told without reading it."""

    ABSENT = "absent"
    OTHER_KIND = "other kind"
    CONTENT = "content"
    ATTRIBUTES = "attributes"
    NONE = "none"


class TreeWriter:
    """Places entries below an existing directory.

    Several threads may place different entries at once. Directories are made as they are needed,
    closed to others (0700), and get their own mode, times and attributes in `finish`, deepest first;
    hard links are made there too. A path that would leave the directory raises IntegrityError; a
    symbolic link in the way of a path is never followed. What this user may not set (owners, some
    attributes) becomes a finding, and the rest goes on.

    Durable: nothing before `finish`, all of it after (one syncfs; an error of any write behind our
    back is raised there). After a crash before that the destination is to be restored again.
    Directories that no entry describes (parents of a restored path) stay 0700.
    Memory: about a kilobyte for each directory, 500 bytes for each hard link.
    """

    def __init__(
        self,
        destination: Path,
        *,
        is_delta: bool = False,
        owner_of: OwnerOf = owners_by_number,
    ) -> None:
        """`is_delta`: what stands in the way may be replaced; else it is refused."""
        self._destination = destination
        self._is_delta = is_delta
        self._root, self._taken_from = _open_destination(destination, is_delta=is_delta)
        self._local = threading.local()
        self._opened: list[Beneath] = []
        self._lock = threading.Lock()
        self._directories: dict[bytes, TreeEntry | None] = {}
        self._links: list[tuple[TreeEntry, bytes]] = []
        self._shortfalls = Shortfalls()
        self._setter = AttributeSetter(owner_of, self._shortfalls)
        self._names = OwnerNames()
        self._numbers = itertools.count()

    def directory(self, entry: TreeEntry) -> None:
        """Make the directory; `b""` is the destination itself. Its attributes come in `finish`."""
        check_path(entry.path)
        self._make_parents(entry.path)
        with self._lock:
            self._directories[entry.path] = entry

    @contextmanager
    def file(self, entry: TreeEntry) -> Iterator[FileWriter]:
        """A new file to write into; at the end of the block it is in place with its attributes.

        Under its own name at once in a fresh destination; in a delta beside its place, which it
        takes at the end. Nothing is left of it if the block fails.
        """
        directory, name = self._place(entry.path)
        temporary = name
        if self._is_delta:
            temporary = b".drtool-%d-%d.tmp" % (os.getpid(), next(self._numbers))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        # The directory's descriptor is only good until the next entry: not to the end of the block.
        held = os.dup(directory)
        try:
            with refusals(self._destination, entry.path):
                descriptor = os.open(temporary, flags, 0o600, dir_fd=held)
            try:
                yield self._writer(descriptor, entry, is_new=True)
                self._complete(descriptor, entry)
                if temporary != name:
                    self._clear(held, entry.path, name, keep_file=True)
                    replace_at(temporary, name, directory=held)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=held)
                raise
            finally:
                os.close(descriptor)
        finally:
            os.close(held)

    @contextmanager
    def patch(self, entry: TreeEntry) -> Iterator[FileWriter | None]:
        """The file that stands there, to change in place; None if it must be written anew by `file`.

        For a delta of large files. While it goes on, and if it fails, the file is neither the old
        one nor the new one, and its time of modification is that of now. A file with other names is
        not changed in place: they may be outside the destination.
        """
        directory, name = self._place(entry.path)
        descriptor = self._open_to_patch(directory, name)
        if descriptor is None:
            yield None
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                yield None
                return
            # A crash must not leave changed content under a time that says it was not touched: the
            # disk may take the first bytes before it takes the time they were written at.
            os.utime(descriptor)
            os.fsync(descriptor)
            yield self._writer(descriptor, entry, is_new=False)
            self._complete(descriptor, entry)
        finally:
            os.close(descriptor)

    def symlink(self, entry: TreeEntry) -> None:
        """Make the link with its text as it is, wherever it leads: nothing here follows it."""
        directory, name = self._place(entry.path)
        with refusals(self._destination, entry.path):
            if self._is_delta:
                self._clear(directory, entry.path, name)
            os.symlink(entry.link, name, dir_fd=directory)
        self._setter.set_link(directory, name, entry)

    def hard_link(self, entry: TreeEntry, first: bytes) -> None:
        """Make it, in `finish`, another name of the file `first`, which is placed by then."""
        check_path(first)
        self._place(entry.path)
        with self._lock:
            self._links.append((entry, first))

    def compare(self, entry: TreeEntry) -> Difference:
        """How what stands there differs. NONE and ATTRIBUTES take size and mtime for the content's word.

        A time that the destination may not be able to hold counts as an attribute alone.
        Who wants more than their word reads the file with `patch`. Only in a delta.
        """
        found = self._found(entry.path)
        if found is None:
            return Difference.ABSENT
        if found.kind is not entry.kind:
            return Difference.OTHER_KIND
        if entry.kind is TreeKind.SYMLINK and found.link != entry.link:
            return Difference.CONTENT
        is_other_time = found.modified_ns != entry.modified_ns and not is_far_time(
            entry.modified_ns
        )
        is_other = is_other_time or found.size_bytes != entry.size_bytes
        if entry.kind is TreeKind.FILE and is_other:
            return Difference.CONTENT
        return Difference.ATTRIBUTES if self._setter.differs(entry, found) else Difference.NONE

    def set_attributes(self, entry: TreeEntry) -> bool:
        """Give what stands there the entry's attributes, content aside. For `Difference.ATTRIBUTES`.

        False, and nothing is changed, of a file with other names: they may be outside the destination.
        """
        directory, name = self._place(entry.path)
        if entry.kind is TreeKind.SYMLINK:
            self._setter.set_link(directory, name, entry)
        elif entry.kind is TreeKind.DIRECTORY:
            self.directory(entry)
        else:
            self._make_usable(directory, name)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=directory)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    return False
                self._setter.set_open(descriptor, entry)
            finally:
                os.close(descriptor)
        return True

    def finish(self) -> list[Finding]:
        """Make the hard links, give directories their attributes, make all of it durable."""
        for entry, first in self._links:
            self._link(entry, first)
        # In falling order of path what is in a directory comes before the directory.
        for path in sorted(self._directories, reverse=True):
            described = self._directories[path]
            if described is not None:
                with refusals(self._destination, path):
                    self._setter.set_open(self._beneath.directory(path), described)
        if self._taken_from is not None and self._directories.get(b"") is None:
            os.fchmod(self._root, stat.S_IMODE(self._taken_from.st_mode))
            os.fchown(self._root, self._taken_from.st_uid, self._taken_from.st_gid)
        sync_file_systems([self._root])
        self._require_same()
        self.close()
        return self.findings()

    def _require_same(self) -> None:
        """DestinationRefused if the destination's name leads to another directory by now."""
        try:
            found = os.stat(self._destination, follow_symlinks=False)
        except OSError:
            found = None
        if found is None or not os.path.samestat(found, os.fstat(self._root)):
            raise DestinationRefused(
                f"destination {self._destination} was moved or replaced while it was restored",
                hint="Look who may write in the directory above it, and restore into another one.",
            )

    def findings(self) -> list[Finding]:
        """What could not be set so far, counted."""
        return self._shortfalls.findings()

    def close(self) -> None:
        """Let the descriptors go. Also after a failure; no other call may follow."""
        with self._lock:
            for beneath in self._opened:
                beneath.close()
            self._opened.clear()
            if self._root >= 0:
                os.close(self._root)
                self._root = -1

    @property
    def _beneath(self) -> Beneath:
        beneath: Beneath | None = getattr(self._local, "beneath", None)
        if beneath is None:
            beneath = self._local.beneath = Beneath(self._root)
            with self._lock:
                self._opened.append(beneath)
        return beneath

    def _writer(self, descriptor: int, entry: TreeEntry, *, is_new: bool) -> FileWriter:
        return FileWriter(descriptor, entry.path, destination=self._destination, is_new=is_new)

    def _complete(self, descriptor: int, entry: TreeEntry) -> None:
        with refusals(self._destination, entry.path):
            os.ftruncate(descriptor, entry.size_bytes)
            self._setter.set_open(descriptor, entry)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        """The directory of an entry, made if need be, and the entry's name in it."""
        check_path(path)
        directory, name = split(path)
        if not name:
            raise DestinationRefused(
                f"{self._destination} is a directory and cannot be anything else",
                hint="Restore into another directory.",
            )
        self._make_parents(directory)
        with refusals(self._destination, path):
            return self._beneath.directory(directory), name

    def _make_parents(self, path: bytes) -> None:
        """Make `path` and what is missing above it; not by recursion, since trees are deep."""
        missing = []
        while path and path not in self._directories:
            missing.append(path)
            path = split(path)[0]
        for path in reversed(missing):
            self._make_directory(path)

    def _make_directory(self, path: bytes) -> None:
        parent, name = split(path)
        with refusals(self._destination, path):
            directory = self._beneath.directory(parent)
            if self._is_delta:
                self._clear(directory, path, name, keep_directory=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            # Refuses a file or a link of that name.
            os.close(os.open(name, _DIRECTORY, dir_fd=directory))
        with self._lock:
            self._directories.setdefault(path, None)

    def _clear(
        self,
        directory: int,
        path: bytes,
        name: bytes,
        *,
        keep_directory: bool = False,
        keep_file: bool = False,
    ) -> None:
        """Take away what stands in a new entry's place, and may not stay; a full directory stays."""
        try:
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            if not keep_file:
                os.unlink(name, dir_fd=directory)
            return
        if keep_directory:
            self._make_usable(directory, name)
            return
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            raise DestinationRefused(
                f"directory {shown(path)} in {self._destination} stands where something else belongs",
                hint="Move it away, then run the restore again.",
            ) from error

    def _make_usable(self, directory: int, name: bytes) -> None:
        """Let us, its owner, in: its own mode comes back with its attributes."""
        if os.geteuid() == 0:
            return
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        wanted = stat.S_IMODE(status.st_mode) | _READABLE
        if status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode):
            if wanted != stat.S_IMODE(status.st_mode):
                os.chmod(name, wanted, dir_fd=directory)

    def _open_to_patch(self, directory: int, name: bytes) -> int | None:
        if not self._is_delta:
            return None
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=directory)
        except OSError:
            # Not there, no file, not ours to write: all of them are for `file` to answer.
            return None

    def _found(self, path: bytes) -> TreeEntry | None:
        """What stands at `path`; None for nothing, and for a way there that does not exist."""
        check_path(path)
        parent, name = split(path)
        try:
            directory = self._beneath.directory(parent)
            status = os.stat(name or b".", dir_fd=directory, follow_symlinks=False)
            kind = kind_of(status.st_mode)
            if kind is None:
                return None
            link = os.readlink(name, dir_fd=directory) if kind is TreeKind.SYMLINK else b""
            xattrs = read_xattrs(path_in(directory, name or b"."))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return make_entry(path, kind, status, names=self._names, xattrs=xattrs, link=link)

    def _link(self, entry: TreeEntry, first: bytes) -> None:
        directory, name = self._place(entry.path)
        held = os.dup(directory)
        try:
            parent, first_name = split(first)
            with refusals(self._destination, entry.path):
                source = self._beneath.directory(parent)
                if self._is_delta:
                    self._clear(held, entry.path, name)
                link_at(first_name, name, source_directory=source, directory=held)
        finally:
            os.close(held)


def _open_destination(destination: Path, *, is_delta: bool) -> tuple[int, os.stat_result | None]:
    """A descriptor of the directory that a real path names, and whose it was, if root takes it over.

    While a tree is written whole nobody else may put anything into it: another user's empty directory
    becomes ours until the end. DestinationRefused if a link leads there.
    """
    try:
        root = open_real(destination)
        found = os.fstat(root)
        if is_delta or os.geteuid() != 0 or found.st_uid == 0:
            return root, None
        os.fchmod(root, stat.S_IRWXU)
        os.fchown(root, 0, 0)
    except OSError as error:
        raise DestinationRefused(
            f"destination {destination} cannot be opened: {error.strerror}",
            hint="If it is a symbolic link, look who put it there; restore into another directory.",
        ) from error
    return root, found
