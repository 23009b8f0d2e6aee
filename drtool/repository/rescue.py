#!/usr/bin/env python3
"""Restore from a drtool repository without drtool.

    python rescue.py list    REPO
    python rescue.py restore REPO SOURCE BACKUP DEST
    python rescue.py wal     REPO SOURCE DEST [--since SEGMENT]
    python rescue.py verify  REPO

REPO is a directory: the repository itself, or a copy of the bucket. The key comes from the
environment variable DRTOOL_KEY (a passphrase) or from --key-file FILE. Needs Python 3.9 or later
and two packages: pip install zstandard cryptography. README.txt beside this file tells the whole
way back; FORMAT.md in drtool's source describes every byte read here. Nothing in REPO is changed,
and every piece of content is authenticated before it is written anywhere.

Whoever can write to the store can replace this file, and it is given the key. Run the one of the
package (python -m drtool.rescue), or compare this file's SHA-256 with the one that `drtool
repository init` and every report have printed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import stat
import struct
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple  # Any: of JSON

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

PREFIX = 8  # b"DRTOOL1" and the letter of the object's type
KEY_BLOCK = 64  # key version (4), nonce (12), object key (32), tag (16)
TAG = 16
LONGEST_RECORD = 256 << 20
HOLE = 0xFFFFFFFF  # in place of a pack: zeros
FAR_TIME = 4  # a flag of section 6.1
LONGEST_PATH = 4000  # Linux takes 4,095 bytes
CHUNKS_KEPT = 128
FOOTERS_KEPT = 64
LONGEST_PLAIN = 1 << 20  # drtool.json, slots, key versions: what is read before any key is known
LONGEST_FRAME = (4 << 20) + TAG
LONGEST_FOOTER = 16 << 20
MOST_SCRYPT_BYTES = 4 * 128 * 65536 * 8
MOST_SCRYPT_WORK = 8 * 65536 * 8 * 2
SEGMENT = re.compile("([0-9A-F]{24})(?:[.]part-([0-9A-F]{8})-([0-9A-F]{8}))?")
HISTORY = re.compile("[0-9A-F]{8}[.]history")
BESIDE = re.compile("(.+)~[0-9a-f]{8}", re.DOTALL)
BACKUP = re.compile("[0-9]{8}T[0-9]{6}([.][0-9]{3})?Z-[0-9a-f]{6}")
Json = Any  # what json.loads gives: authenticated, or checked where it is used


class Trouble(Exception):
    """What a person must know; printed without a traceback."""


class OtherKind(Trouble):
    """A backup that only drtool restores."""


class Secret(NamedTuple):
    """What was given to open the repository; both are empty for one without encryption."""

    passphrase: bytes
    key_file: bytes

    def kinds(self) -> set[str]:
        """The slots that it may open. A slot of another kind may be anybody's."""
        given = {"passphrase": self.passphrase, "key-file": self.key_file}
        return {kind for kind, content in given.items() if content} or {"none"}


# ---------------------------------------------------------------- keys and sealed objects


class Frame(NamedTuple):
    """What one frame or chunk of an object is bound to."""

    name: str
    number: int
    codec: int
    size: int
    final: bool


class Seal(NamedTuple):
    """The opened key of one object, and what all its frames are bound to."""

    cipher: AESGCM
    context: bytes

    def open(self, frame: Frame, sealed: bytes) -> bytes:
        """Authenticate, decrypt and unpack. FORMAT.md, section 4."""
        name, number, codec, size, final = frame
        bound = self.context + struct.pack(">QBIB", number, codec, size, final)
        try:
            plain = self.cipher.decrypt(number.to_bytes(12, "big"), sealed, bound)
        except InvalidTag:
            raise Trouble(f"object {name} is damaged: frame {number} is not authentic") from None
        if codec == 1:
            try:
                if zstandard.frame_content_size(plain) > size:
                    raise Trouble(f"object {name} is damaged: frame {number} has another length")
                plain = zstandard.ZstdDecompressor().decompress(plain, max_output_size=size)
            except zstandard.ZstdError as error:
                raise Trouble(f"object {name} is damaged: frame {number}: {error}") from None
        if len(plain) != size:
            raise Trouble(f"object {name} is damaged: frame {number} has another length")
        return plain


class Pack(NamedTuple):
    """An opened footer: a row is (offset, sealed bytes, plain bytes, codec) of a chunk."""

    name: str
    seal: Seal
    rows: list[tuple[int, int, int, int]]


class Repository:
    """The objects of a repository, and the keys that open them."""

    def __init__(self, directory: str, secret: Secret) -> None:
        self.directory = directory
        self.listed: dict[str, list[str]] = {}
        root = self.read_json("drtool.json")
        if root.get("drtool") != 1:
            raise Trouble(f"the repository has format {root.get('drtool')!r}, this program reads 1")
        try:
            self.id = bytes.fromhex(root["repository"])
        except (ValueError, KeyError, TypeError):
            raise Trouble("object drtool.json is not a repository's root") from None
        self.keys = f"keys/{self.id.hex()}"
        self.versions = self.open_versions(self.open_slot(secret))
        self.packs: OrderedDict[bytes, Pack] = OrderedDict()
        self.chunks: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    def open(self, key: str) -> BinaryIO:
        """An object; anything but a file is none: a FIFO, say, would never come to its end."""
        try:
            descriptor = os.open(os.path.join(self.directory, key), os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise Trouble(f"object {key} is missing from {self.directory}") from None
        except OSError as error:
            raise Trouble(f"object {key} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Trouble(f"object {key} in {self.directory} is no file")
        return os.fdopen(descriptor, "rb")

    def read(self, key: str, begin: int = 0, length: int = LONGEST_PLAIN) -> bytes:
        """At most `length` bytes of an object from `begin`, which may count from its end."""
        with self.open(key) as file:
            file.seek(begin if begin >= 0 else max(0, file.seek(0, os.SEEK_END) + begin))
            return file.read(length)

    def read_json(self, key: str) -> Json:
        """A plain object: anybody may have written it."""
        try:
            document = json.loads(self.read(key))
        except (ValueError, RecursionError):
            raise Trouble(f"object {key} is damaged: it is no JSON") from None
        if not isinstance(document, dict):
            raise Trouble(f"object {key} is damaged: it is no JSON object")
        return document

    def names(self, prefix: str) -> list[str]:
        """The sorted names in one directory of the repository; none if it is not there."""
        if prefix not in self.listed:
            path = os.path.join(self.directory, prefix)
            self.listed[prefix] = sorted(os.listdir(path)) if os.path.isdir(path) else []
        return self.listed[prefix]

    def own_names(self, prefix: str) -> list[str]:
        """The same, but of an object that was put beside its name the name that it stands for."""
        return sorted({own_name(name) for name in self.names(prefix)})

    def beside(self, name: str) -> Iterator[str]:
        """The objects beside a name that somebody else has taken. FORMAT.md, section 3.1."""
        directory, _, last = name.rpartition("/")
        names = self.names(directory)
        for found in names[bisect_right(names, f"{last}~") :]:
            if not found.startswith(f"{last}~"):
                return
            if own_name(found) == last:
                yield f"{directory}/{found}"

    def open_slot(self, secret: Secret) -> bytes:
        """The master key, from a slot of the secret's kind. FORMAT.md, section 2.

        A slot of kind `none` counts only where no secret was given: it opens to whatever key
        somebody put into it, and whoever has a secret has a repository that needs one.
        """
        kinds = set()
        for name in self.names(self.keys):
            if not name.startswith("slot-"):
                continue
            try:
                slot = self.read_json(f"{self.keys}/{name}")
                kinds.add(str(slot["kind"]))
                if slot["kind"] not in secret.kinds():
                    continue
                wrapped = base64.b64decode(slot["wrapped"], validate=True)
                if slot["kind"] == "none":
                    return wrapped
                context = self.id + f"slot {slot['slot']} {slot['kind']}".encode()
                return AESGCM(slot_key(slot, secret)).decrypt(wrapped[:12], wrapped[12:], context)
            except InvalidTag:
                continue
            except (Trouble, ValueError, KeyError, TypeError, OverflowError) as error:
                complain(f"{self.keys}/{name} is not used, it is no key slot: {error}")
        taken = ", ".join(sorted(kinds)) or "nothing: there are none"
        if kinds == {"none"}:
            raise Trouble(
                "the repository has no encryption: unset DRTOOL_KEY, leave out --key-file"
            )
        if kinds & set(secret.kinds()):
            raise Trouble(f"the key given opens no slot; they take {taken}")
        raise Trouble(f"no slot opens; they take {taken}. Set DRTOOL_KEY, or pass --key-file")

    def open_versions(self, master: bytes) -> dict[int, AESGCM]:
        """What wraps the keys of objects, by number. FORMAT.md, section 2."""
        wrapping = HKDF(SHA256(), 32, salt=None, info=b"drtool 1 key versions").derive(master)
        versions = {}
        for name in self.names(self.keys):
            if re.fullmatch("version-[0-9]{4,9}", name):
                number, key = int(name[8:]), f"{self.keys}/{name}"
                context = self.id + f"version {number}".encode()
                try:
                    wrapped = self.read(key)
                    opened = AESGCM(wrapping).decrypt(wrapped[:12], wrapped[12:], context)
                    versions[number] = AESGCM(opened)
                except (InvalidTag, ValueError, Trouble):
                    complain(f"{key} does not open: what was sealed under it is lost, if anything")
        return versions

    def seal_of(self, kind: bytes, name: str, block: bytes) -> Seal:
        """Open an object's key block. FORMAT.md, section 3."""
        version = int.from_bytes(block[:4], "big")
        if len(block) != KEY_BLOCK or version not in self.versions:
            raise Trouble(f"object {name} is damaged, or its key version {version} is missing")
        encoded = os.fsencode(name)
        context = self.id + kind + struct.pack(">H", len(encoded)) + encoded
        try:
            key = self.versions[version].decrypt(block[4:16], block[16:], context)
        except InvalidTag:
            raise Trouble(f"object {name} is damaged: its key does not open") from None
        return Seal(AESGCM(key), context)

    def unseal(self, kind: bytes, name: str) -> bytes:
        """The plain bytes of a sealed object, or of one beside it. FORMAT.md, section 3.1.

        The trouble is that of the name itself if there is none.
        """
        try:
            return self.unseal_exactly(kind, name)
        except Trouble:
            for beside in self.beside(name):
                try:
                    return self.unseal_exactly(kind, beside)
                except Trouble:
                    continue
            raise

    def is_ours(self, kind: bytes, name: str) -> bool:
        """Whether a holder of the key has put an object: its head tells."""
        try:
            head = self.read(name, 0, PREFIX + KEY_BLOCK)
            self.seal_of(kind, name, head[PREFIX:])
        except Trouble:
            return False
        return head[:PREFIX] == b"DRTOOL1" + kind

    def unseal_exactly(self, kind: bytes, name: str) -> bytes:
        """The plain bytes of one object, authenticated to its end. FORMAT.md, section 4.

        Frame by frame: what is not authentic is not read into memory.
        """
        with self.open(name) as file:
            begin = file.read(PREFIX + KEY_BLOCK)
            if begin[:PREFIX] != b"DRTOOL1" + kind:
                raise Trouble(f"object {name} is damaged: it does not begin as it should")
            seal = self.seal_of(kind, name, begin[PREFIX:])
            number, final, plain = 0, False, []
            while not final:
                head = file.read(9)
                if len(head) < 9:
                    raise Trouble(f"object {name} is cut short")
                length, flags, size = struct.unpack(">IBI", head)
                if max(length, size) > LONGEST_FRAME:
                    raise Trouble(f"object {name} is damaged: frame {number} is too long")
                final = bool(flags & 0x80)
                frame = Frame(name, number, flags & 0x7F, size, final)
                plain.append(seal.open(frame, file.read(length)))
                number += 1
            if file.read(1):
                raise Trouble(f"object {name} has bytes after its end")
        return b"".join(plain)

    def pack(self, pack_id: bytes) -> Pack:
        """A pack's footer, from the end of the object. FORMAT.md, section 5."""
        if pack_id in self.packs:
            return self.packs[pack_id]
        name = f"packs/{pack_id.hex()[:2]}/{pack_id.hex()}"
        trailer = self.read(name, -8)
        length = int.from_bytes(trailer[:4], "big")
        if length > LONGEST_FOOTER:
            raise Trouble(f"object {name} is damaged: it does not end as a pack does")
        body = self.read(name, -8 - length, length)
        if trailer[4:] != b"DRT." or not 9 + TAG + KEY_BLOCK <= length == len(body):
            raise Trouble(f"object {name} is damaged: it does not end as a pack does")
        seal = self.seal_of(b"P", name, body[-KEY_BLOCK:])
        count, codec, size = struct.unpack_from(">IBI", body)
        plain = seal.open(Frame(name, count, codec, size, True), body[9:-KEY_BLOCK])
        rows, offset = [], PREFIX
        for sealed_bytes, plain_bytes, codec, _ in struct.iter_unpack(">IIB32s", plain):
            rows.append((offset, sealed_bytes, plain_bytes, codec))
            offset += sealed_bytes
        self.packs[pack_id] = Pack(name, seal, rows)
        if len(self.packs) > FOOTERS_KEPT:
            self.packs.popitem(last=False)
        return self.packs[pack_id]

    def chunk(self, pack_id: bytes, number: int) -> bytes:
        """One chunk, authenticated; the last ones are kept, for many pages share one."""
        plain = self.chunks.get((pack_id, number))
        if plain is None:
            pack = self.pack(pack_id)
            if number >= len(pack.rows):
                raise Trouble(f"object {pack.name} has no chunk {number}")
            offset, sealed_bytes, size, codec = pack.rows[number]
            sealed = self.read(pack.name, offset, sealed_bytes)
            plain = pack.seal.open(Frame(pack.name, number, codec, size, False), sealed)
            self.chunks[pack_id, number] = plain
            if len(self.chunks) > CHUNKS_KEPT:
                self.chunks.popitem(last=False)
        return plain


def own_name(name: str) -> str:
    """The name that an object stands for: its own, or that beside which it was put."""
    found = BESIDE.fullmatch(name)
    return found[1] if found else name


def slot_key(slot: Json, secret: Secret) -> bytes:
    """What opens a slot, from the secret of its kind."""
    salt = base64.b64decode(slot["salt"], validate=True)
    content = secret.passphrase
    if slot["kind"] == "key-file":
        content = secret.key_file
        if not slot.get("stretched"):
            return HKDF(SHA256(), 32, salt=salt, info=b"drtool 1 key file").derive(content)
    n, r, p = slot["scrypt"]
    is_cheap = 128 * n * r <= MOST_SCRYPT_BYTES and n * r * p <= MOST_SCRYPT_WORK
    if not (1 <= r <= 32 and 1 <= p <= 16 and n > 1 and is_cheap):
        raise ValueError("its scrypt parameters ask for too much")
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(content)


# ---------------------------------------------------------------- backups


class Record(NamedTuple):
    """A file of a backup, or a stretch of one; extents are (length, pack, chunk, offset).

    A pack of no bytes stands for zeros.
    """

    kind: str
    path: bytes
    link: bytes
    extra: bytes
    mode: int
    owner: tuple[int, int]
    modified_ns: int
    size: int
    begin: int
    extents: list[tuple[int, bytes, int, int]]


def read_manifest(repository: Repository, source: str, backup: str) -> Json:
    """What is to be known of a backup. FORMAT.md, section 7."""
    sealed = repository.unseal(b"M", f"backups/{source}/{backup}")
    try:
        manifest = json.loads(sealed)
        if manifest["kind"] == "redis":
            raise OtherKind("it is of a Redis, and rescue.py restores PostgreSQL and files alone")
        if manifest["manifest"] != 1 or manifest["kind"] not in ("postgres", "files"):
            raise Trouble(f"backup {backup} needs a later rescue.py: take it from a newer drtool")
    except (ValueError, KeyError, TypeError) as error:
        raise Trouble(f"the manifest of backup {backup} cannot be read: {error!r}") from None
    return manifest


def read_table(repository: Repository, manifest: Json) -> Iterator[Record]:
    """All records of a backup's file table, in order. FORMAT.md, section 6."""
    for pack, number in manifest["table"]:
        plain = repository.chunk(bytes.fromhex(manifest["packs"][pack]), number)
        (pack_count,) = struct.unpack_from(">I", plain, 0)
        packs = [plain[4 + 16 * index : 20 + 16 * index] for index in range(pack_count)]
        place = 4 + 16 * pack_count
        (count,) = struct.unpack_from(">I", plain, place)
        place += 4
        for _ in range(count):
            record, place = read_record(plain, place, packs)
            yield record


def read_record(plain: bytes, place: int, packs: list[bytes]) -> tuple[Record, int]:
    """One record, and where the next one begins."""
    (kind, path_bytes, link_bytes, mode, uid, gid, modified_ns, size, begin, count, _, _, _) = (
        struct.unpack_from(">BHHIIIqQQIIII", plain, place)
    )
    path_at = place + 57
    link_at = path_at + path_bytes
    extents_at = link_at + link_bytes
    path, link, extra = plain[path_at:link_at], plain[link_at:extents_at], b""
    if chr(kind).isupper():
        (extra_bytes,) = struct.unpack_from(">I", plain, extents_at)
        extents_at += 4 + extra_bytes
        extra = plain[extents_at - extra_bytes : extents_at]
    numbers = struct.unpack_from(f">{4 * count}I", plain, extents_at)
    length, pack, chunk, offset = (numbers[count * n : count * (n + 1)] for n in range(4))
    if extra and extra[1] & FAR_TIME:
        seconds, nanoseconds = struct.unpack(">qI", extra[-12:])
        modified_ns = seconds * 10**9 + nanoseconds
    ids = [b"" if index == HOLE else packs[index] for index in pack]
    extents = [(length[n], ids[n], chunk[n], offset[n]) for n in range(count)]
    kind_letter, owner = chr(kind).lower(), (uid, gid)
    record = Record(
        kind_letter, path, link, extra, mode, owner, modified_ns, size, begin, extents
    )  # fmt: skip
    return record, extents_at + 16 * count


class Extra(NamedTuple):
    """What only a tree of files has: its hard links (device, inode), and extended attributes."""

    inode: tuple[int, int]
    links: int
    xattrs: list[tuple[bytes, bytes]]


def read_extra(extra: bytes) -> Extra:
    """FORMAT.md, section 6.1."""
    version, _, _, inode, device, links = struct.unpack_from(">BBqQQI", extra)
    if version != 1:
        raise Trouble("this backup needs a later rescue.py: take it from a newer drtool")
    at = 30
    for _ in ("owner", "group"):
        at += 1 + extra[at]
    (count,) = struct.unpack_from(">H", extra, at)
    at, xattrs = at + 2, []
    for _ in range(count):
        name_bytes, value_bytes = struct.unpack_from(">HI", extra, at)
        middle, end = at + 6 + name_bytes, at + 6 + name_bytes + value_bytes
        xattrs.append((extra[at + 6 : middle], extra[middle:end]))
        at = end
    return Extra((device, inode), links, xattrs)


class Restorer:
    """Writes one backup: links after all files, and the file that makes it startable last."""

    def __init__(self, repository: Repository, destination: str) -> None:
        self.repository = repository
        self.destination = os.fsencode(os.path.abspath(destination))
        self.tablespaces = self.destination + b"-tablespaces"
        self.tree = False
        self.names: dict[tuple[str, tuple[int, int]], Record] = {}
        self.held: list[int] = []
        self.linked = b""
        self.files = 0
        self.bytes = 0

    def run(self, manifest: Json) -> None:
        """Restore everything. What was cut off has no pg_control, so it cannot be started."""
        self.tree = manifest["kind"] == "files"
        make_directory(self.destination)
        directories, links, last = [], [], []
        for record in read_table(self.repository, manifest):
            if record.kind == "d":
                make_directory(self.path(record))
                directories.append(record)
            elif record.kind == "l":
                links.append(record)
            elif self.tree:
                self.write_or_link(record)
            elif record.path == b"global/pg_control":
                last.append(record)
            elif record.path != b"tablespace_map":  # would lead the server to the source's own
                self.write(record)
        spaces = [] if self.tree else manifest["postgres"]["tablespaces"]
        self.make_links(links, [str(oid).encode() for oid, _ in spaces])
        for record in reversed(directories):
            give_attributes(self.path(record), record)
        os.sync()
        for record in last:
            self.write(record)
        os.sync()

    def path(self, record: Record) -> bytes:
        """Where a record belongs: tablespaces beside DEST, never where the source has them."""
        if self.tree and not record.path:
            return self.destination
        parts = record.path.split(b"/")
        if {b"", b".", b".."} & set(parts) or b"\0" in record.path:
            raise Trouble(f"the backup holds the unsafe path {record.path!r}")
        if parts[0] == b"pg_tblspc" and len(parts) > 1 and not self.tree:
            return os.path.join(self.tablespaces, *parts[1:])
        return self.reach(os.path.join(self.destination, *parts), parts)

    def reach(self, path: bytes, parts: list[bytes]) -> bytes:
        """The same place by a path that a system call takes: those of a tree may be longer."""
        if len(path) < LONGEST_PATH:
            return path
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        directory = os.open(self.destination, flags)
        for name in parts[:-1]:
            above, directory = directory, os.open(name, flags, dir_fd=directory)
            os.close(above)
        self.held.append(directory)
        if len(self.held) > 2:  # a hard link needs two at a time
            os.close(self.held.pop(0))
        return b"/proc/self/fd/%d/%s" % (directory, parts[-1])

    def link_name(self, record: Record) -> bool:
        """Make it another name of what is there already, if it is one."""
        if not record.extra or read_extra(record.extra).links < 2:
            return False
        group = record.kind, read_extra(record.extra).inode
        first = self.names.setdefault(group, record)
        if first is record or (first.extents, first.link) != (record.extents, record.link):
            return False
        make_directory(os.path.dirname(self.path(record)))
        os.link(self.path(first), self.path(record), follow_symlinks=False)
        return True

    def write_or_link(self, record: Record) -> None:
        """Write a file of a tree; or link it, if it is another name of one that is there."""
        if record.begin == 0 and self.link_name(record):
            self.linked, self.files = record.path, self.files + 1
            return
        if record.path != self.linked:
            self.write(record)

    def write(self, record: Record) -> None:
        """Write a file, or one stretch of a large one."""
        path = self.path(record)
        make_directory(os.path.dirname(path))
        with open(path, "r+b" if record.begin else "xb") as file:
            file.seek(record.begin)
            for length, pack, number, offset in record.extents:
                if not pack:
                    self.bytes += length
                    file.truncate(file.seek(length, os.SEEK_CUR))
                    continue
                plain = self.repository.chunk(pack, number)
                if offset + length > len(plain):
                    raise Trouble(f"file {record.path!r} does not add up")
                self.bytes += file.write(memoryview(plain)[offset : offset + length])
            end = file.tell()
        if end != min(record.size, record.begin + LONGEST_RECORD):
            raise Trouble(f"file {record.path!r} does not add up")
        if end == record.size:
            self.files += 1
            give_attributes(path, record)

    def make_links(self, links: list[Record], spaces: list[bytes]) -> None:
        """Links as they were; tablespaces linked, and mapped for the server, to their new places."""
        for record in links:
            if record.path.startswith(b"pg_tblspc/") and not self.tree:
                spaces.append(record.path.split(b"/")[1])
            elif not (self.tree and self.link_name(record)):
                path = self.path(record)
                make_directory(os.path.dirname(path))
                os.symlink(record.link, path)
                if self.tree:
                    give_owner(path, record)
                    times = (record.modified_ns, record.modified_ns)
                    os.utime(path, ns=times, follow_symlinks=False)
        lines = []
        for oid in sorted(set(spaces)):
            place = os.path.join(self.tablespaces, oid)
            link = os.path.join(self.destination, b"pg_tblspc", oid)
            make_directory(place)
            make_directory(os.path.dirname(link))
            os.symlink(place, link)
            lines.append(oid + b" " + re.sub(rb"([\n\r\\])", rb"\\\1", place) + b"\n")
        if lines:
            write_new(os.path.join(self.destination, b"tablespace_map"), b"".join(lines))


def make_directory(path: str | bytes) -> None:
    """Make a directory and its parents, closed to others until it gets its own mode."""
    os.makedirs(path, 0o700, exist_ok=True)


def give_attributes(path: bytes, record: Record) -> None:
    """Mode and times; of a tree also owner and attributes, as far as this user may set them.

    A file that is not its owner's gets no set-id bit; of PostgreSQL nothing is open to others.
    """
    mode = record.mode & 0o7777
    if not record.extra:
        mode = mode & 0o750 | 0o700 if record.kind == "d" else mode & 0o740 | 0o600
    elif not give_owner(path, record) and mode & 0o6000:
        complain(f"{record.path!r} is restored without its set-id bits: its owner is another")
        mode &= 0o1777
    os.chmod(path, mode)
    os.utime(path, ns=(record.modified_ns, record.modified_ns))


def give_owner(path: bytes, record: Record) -> bool:
    """Owner and extended attributes of a tree's entry; one complaint for each that is refused.

    Whether the owner is right now.
    """
    owned = True
    try:
        os.chown(path, *record.owner, follow_symlinks=False)
    except OSError as error:
        owned = False
        complain(f"the owner of {record.path!r} could not be set: {error.strerror}")
    for name, value in read_extra(record.extra).xattrs if record.extra else []:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            complain(f"{name!r} of {record.path!r} could not be set: {error.strerror}")
    return owned


def write_new(path: str | bytes, content: bytes) -> None:
    """Write and sync a file that must not be there yet."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# ---------------------------------------------------------------- WAL (FORMAT.md, section 8)


def log_keys(repository: Repository, place: str) -> dict[str, str]:
    """All objects of one cluster's log, by the last part of their keys; other names are nobody's.

    A segment counts in the directory of its own timeline alone: anybody may put its name elsewhere.
    """
    keys = {}
    for directory in repository.names(place):
        for name in repository.own_names(f"{place}/{directory}"):
            is_history = directory == "histories" and HISTORY.fullmatch(name)
            if is_history or (SEGMENT.fullmatch(name) and name[:8] == directory):
                keys[name] = f"{place}/{directory}/{name}"
    return keys


def logged_systems(repository: Repository, source: str) -> list[str]:
    """The clusters of which there is anything that a holder of the key has put."""

    def keys(place: str) -> Iterator[str]:
        for directory in repository.names(place):
            for name in repository.names(f"{place}/{directory}"):
                yield f"{place}/{directory}/{name}"

    places = {system: f"log/{source}/{system}" for system in repository.names(f"log/{source}")}
    return [
        system
        for system, place in places.items()
        if any(repository.is_ours(b"L", key) for key in keys(place))
    ]


def extract_wal(
    repository: Repository, keys: dict[str, str], since: str
) -> Iterator[tuple[str, bytes]]:
    """Segments and histories under the names that PostgreSQL asks for.

    What is not authentic is told and left out; of a segment its parts are then used, if there are.
    """
    parts: dict[str, list[tuple[int, int, str]]] = {}
    whole = set()
    for name, key in keys.items():
        found = SEGMENT.fullmatch(name)
        if found and found[1][8:] < since:
            continue
        if found and found[2]:
            parts.setdefault(found[1], []).append((int(found[2], 16), int(found[3], 16), key))
            continue
        plain = unsealed_or_none(repository, key)
        if plain is not None:
            whole.add(name)
            yield name, plain
    for segment, pieces in parts.items():
        # The whole one is better than its parts.
        joined = b"" if segment in whole else join_parts(repository, sorted(pieces))
        if joined:
            try:
                missing = segment_bytes(joined) - len(joined)
            except Trouble as trouble:
                complain(f"segment {segment} is left out: {trouble}")
                continue
            complain(f"segment {segment} is known up to byte {len(joined)}: zeros follow")
            yield segment, joined + bytes(missing)


def unsealed_or_none(repository: Repository, key: str) -> bytes | None:
    """What is in an object of the log; None, with a complaint, if it is not authentic."""
    try:
        return repository.unseal(b"L", key)
    except Trouble as trouble:
        complain(f"{trouble}: it is left out")
        return None


def join_parts(repository: Repository, pieces: list[tuple[int, int, str]]) -> bytes:
    """The bytes of a growing segment from its first byte up to the first hole."""
    joined = bytearray()
    for begin, end, key in pieces:
        if begin > len(joined):
            complain(f"there is a hole in front of {key}: it is not used")
            break
        plain = unsealed_or_none(repository, key)
        if plain is None:
            continue
        if len(plain) != end - begin:
            complain(f"object {key} has another length than its name says: it is left out")
            continue
        joined += plain[len(joined) - begin :]
    return bytes(joined)


def segment_bytes(segment: bytes) -> int:
    """The size of segments, as their first page says (XLogLongPageHeaderData in PostgreSQL)."""
    for order in ("<I", ">I"):
        (size,) = struct.unpack_from(order, segment.ljust(40, b"\0"), 32)
        if len(segment) <= size and size in [1 << bits for bits in range(20, 31)]:
            return int(size)
    raise Trouble("the first page of the last segment does not tell how long segments are")


# ---------------------------------------------------------------- commands


def backups_of(repository: Repository, source: str) -> list[str]:
    """What bears the name of a backup."""
    return [name for name in repository.own_names(f"backups/{source}") if BACKUP.fullmatch(name)]


def list_backups(repository: Repository, _: argparse.Namespace) -> None:
    """Print every backup, and the first WAL segment that it needs."""
    for source in repository.names("backups"):
        for backup in backups_of(repository, source):
            try:
                manifest = read_manifest(repository, source, backup)
            except Trouble as trouble:
                complain(str(trouble))
                continue
            size = manifest["sizes"]["read_bytes"]
            if manifest["kind"] == "files":
                extent = manifest["files"]
                print(f"{source} {backup} ended {extent['taken_until']}, {size} bytes", end=", ")
                print(f"files of {extent['root']}, as of {extent['taken_from']}")
                continue
            extent = manifest["postgres"]
            log, position = (int(number, 16) for number in extent["start_lsn"].split("/"))
            first = f"{extent['timeline']:08X}{log:08X}{position // extent['segment_bytes']:08X}"
            print(f"{source} {backup} ended {extent['stopped_at']}, {size} bytes", end=", ")
            print(f"PostgreSQL {extent['server_version'] // 10000}, needs WAL from {first}")


def restore(repository: Repository, arguments: argparse.Namespace) -> None:
    """Restore the files of one backup."""
    require_empty(arguments.destination)
    require_empty(arguments.destination + "-tablespaces")
    restorer = Restorer(repository, arguments.destination)
    restorer.run(read_manifest(repository, arguments.source, arguments.backup))
    print(f"{restorer.files} files, {restorer.bytes} bytes are in {arguments.destination}")
    if restorer.tree:
        return
    print("Next: its WAL, a restore_command, and recovery.signal. RESCUE/README.txt tells how")


def wal(repository: Repository, arguments: argparse.Namespace) -> None:
    """Extract the WAL and the histories of a source, for restore_command = 'cp DEST/%%f %%p'."""
    require_empty(arguments.destination)
    systems = logged_systems(repository, arguments.source)
    system = arguments.system or (systems[0] if len(systems) == 1 else "")
    if system not in systems:
        raise Trouble(f"choose with --system which log is meant; there are: {', '.join(systems)}")
    make_directory(arguments.destination)
    keys, count = log_keys(repository, f"log/{arguments.source}/{system}"), 0
    for name, content in extract_wal(repository, keys, arguments.since[-16:]):
        write_new(os.path.join(arguments.destination, name), content)
        count += 1
    print(f"{count} segments and histories are in {arguments.destination}")


def verify(repository: Repository, _: argparse.Namespace) -> None:
    """Read back everything that backups and logs need; one line for each trouble."""
    troubles = 0
    chunks: set[tuple[bytes, int]] = set()
    for source in repository.names("backups"):
        for backup in backups_of(repository, source):
            try:
                for record in read_table(repository, read_manifest(repository, source, backup)):
                    chunks.update((pack, number) for _, pack, number, _ in record.extents if pack)
            except OtherKind as other:
                complain(f"backup {backup} of {source} was not read: {other}")
            except Trouble as trouble:
                troubles += complain(f"backup {backup} of {source}: {trouble}")
    reads = [partial(repository.chunk, pack, number) for pack, number in sorted(chunks)]
    for source in repository.names("log"):
        for system in repository.names(f"log/{source}"):
            keys = log_keys(repository, f"log/{source}/{system}").values()
            reads += [partial(repository.unseal, b"L", key) for key in keys]
    for read in reads:
        try:
            read()
        except Trouble as trouble:
            troubles += complain(str(trouble))
    print(f"{len(chunks)} chunks and {len(reads) - len(chunks)} objects of the log were read")
    if troubles:
        raise Trouble(f"the repository is damaged: {troubles} trouble{'s' if troubles > 1 else ''}")


def require_empty(path: str) -> None:
    """Only new or empty places are written to."""
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise Trouble(f"{path} exists and is not empty: name a new directory")


def complain(text: str) -> int:
    """Tell on standard error; return 1, to be counted."""
    print(f"rescue: {shown(text)}", file=sys.stderr)
    return 1


def shown(text: str) -> str:
    """Text with what is not printable made visible: anybody may have chosen a name."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Restore from a drtool repository without drtool.")
    commands = parser.add_subparsers(dest="command", required=True)
    for run, name, places in (
        (list_backups, "list", ()),
        (restore, "restore", ("source", "backup", "destination")),
        (wal, "wal", ("source", "destination")),
        (verify, "verify", ()),
    ):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        for place in ("repository", *places):
            command.add_argument(place)
        command.add_argument("--key-file", help="the repository's key file, if it has one")
        if run is wal:
            command.add_argument("--since", default="", help="leave out segments before this one")
            command.add_argument("--system", help="the system identifier, if there are several")
    return parser.parse_args()


def main() -> None:
    """Run one command: exit 0, or 1 with the trouble on standard error."""
    arguments = parse_arguments()
    key_file = b""
    try:
        if arguments.key_file:
            with open(arguments.key_file, "rb") as file:
                key_file = file.read().rstrip(b"\r\n")  # a newline is no part of the key
        secret = Secret(os.environ.get("DRTOOL_KEY", "").encode(), key_file)
        arguments.run(Repository(arguments.repository, secret), arguments)
    except (Trouble, OSError) as trouble:
        sys.exit(f"rescue: {shown(str(trouble))}")


if __name__ == "__main__":
    main()
