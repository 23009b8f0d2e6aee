"""Entries of a tree of files, to and from attributes in a file table: FORMAT.md, section 6.1."""

from __future__ import annotations

import struct

from drtool.repository.records import Attributes, EntryKind, extra_at, recordable_time
from drtool.repository.sealing import damaged
from drtool.sources.files.entries import TreeEntry, TreeKind

_VERSION = 1
_IS_SPARSE, _LOOKED_RANDOM, _FAR_TIME = 1, 2, 4
# Version, flags, ctime, inode, device, number of links.
_HEAD = struct.Struct(">BBqQQI")
# In the head of the record itself, from byte 17 on.
_TIME_AND_SIZE = struct.Struct(">qQ")
_XATTR = struct.Struct(">HI")
# Seconds and nanoseconds of a time of modification that the record's own field cannot hold.
_TIME = struct.Struct(">qI")
_LONGEST_NAME = 255
_PLAIN_FILE = ord("F")

_KINDS = {
    TreeKind.FILE: EntryKind.FILE,
    TreeKind.DIRECTORY: EntryKind.DIRECTORY,
    TreeKind.SYMLINK: EntryKind.SYMLINK,
}
_TREE_KINDS = {kind: tree_kind for tree_kind, kind in _KINDS.items()}


def attributes_of(entry: TreeEntry, *, looked_random: bool = False) -> Attributes:
    """What a table keeps of an entry. `looked_random`: its content could have been encrypted."""
    is_far = recordable_time(entry.modified_ns) != entry.modified_ns
    flags = _IS_SPARSE * entry.is_sparse | _LOOKED_RANDOM * looked_random | _FAR_TIME * is_far
    parts = [
        _HEAD.pack(
            _VERSION, flags, recordable_time(entry.changed_ns), entry.inode, entry.device,
            entry.links,
        ),
        _named(entry.owner),
        _named(entry.group),
        struct.pack(">H", len(entry.xattrs)),
    ]  # fmt: skip
    for name, value in entry.xattrs:
        parts += [_XATTR.pack(len(name), len(value)), name, value]
    if is_far:
        parts.append(_TIME.pack(*divmod(entry.modified_ns, 1_000_000_000)))
    return Attributes(
        path=entry.path,
        kind=_KINDS[entry.kind],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        modified_ns=entry.modified_ns,
        size_bytes=entry.size_bytes,
        link=entry.link,
        extra=b"".join(parts),
    )


def compare_signs(entry: TreeEntry, encoded: bytes) -> tuple[bool, bool]:
    """Whether a file still bears the signs in its encoded first record, and whether it looked random.

    The signs are those of `unchanged.Signs`; nothing else is decoded, which takes ten times as long.
    """
    at = extra_at(encoded)
    if not at or len(encoded) < at + _HEAD.size:
        return False, False
    if encoded[at] != _VERSION or encoded[0] != _PLAIN_FILE:
        return False, False
    _, flags, changed_ns, inode, _, _ = _HEAD.unpack_from(encoded, at)
    modified_ns, size_bytes = _TIME_AND_SIZE.unpack_from(encoded, 17)
    is_same = (
        changed_ns == recordable_time(entry.changed_ns)
        and modified_ns == recordable_time(entry.modified_ns)
        and size_bytes == entry.size_bytes
        and inode == entry.inode
    )
    return is_same, bool(flags & _LOOKED_RANDOM)


def moved_sign(entry: TreeEntry) -> int:
    """The same before and after a rename, and hardly ever of two files: inode, size, modification."""
    return hash((entry.inode, entry.size_bytes, entry.modified_ns))


def entry_of(attributes: Attributes) -> TreeEntry:
    """The entry again; IntegrityError if it was written by something else than drtool."""
    extra, modified_ns = attributes.extra, attributes.modified_ns
    try:
        version, flags, changed_ns, inode, device, links = _HEAD.unpack_from(extra)
        if version != _VERSION:
            raise ValueError(f"its attributes are of version {version}")
        owner, at = _name_at(extra, _HEAD.size)
        group, at = _name_at(extra, at)
        (count,) = struct.unpack_from(">H", extra, at)
        at += 2
        xattrs = []
        for _ in range(count):
            name_bytes, value_bytes = _XATTR.unpack_from(extra, at)
            at += _XATTR.size
            end = at + name_bytes + value_bytes
            xattrs.append((extra[at : at + name_bytes], extra[at + name_bytes : end]))
            at = end
        if flags & _FAR_TIME:
            seconds, nanoseconds = _TIME.unpack_from(extra, at)
            modified_ns = seconds * 1_000_000_000 + nanoseconds
        if at > len(extra):
            raise ValueError("its attributes are cut short")
    except (struct.error, ValueError, IndexError) as error:
        raise damaged(f"record {attributes.path!r}", str(error)) from error
    return TreeEntry(
        path=attributes.path,
        kind=_TREE_KINDS[attributes.kind],
        mode=attributes.mode,
        uid=attributes.uid,
        gid=attributes.gid,
        owner=owner,
        group=group,
        modified_ns=modified_ns,
        changed_ns=changed_ns,
        inode=inode,
        device=device,
        links=links,
        size_bytes=attributes.size_bytes,
        is_sparse=bool(flags & _IS_SPARSE),
        link=attributes.link,
        xattrs=tuple(xattrs),
    )


def _named(name: str | None) -> bytes:
    """A name without which the number must do is none: longer ones than any system makes as well."""
    encoded = name.encode("utf-8", "surrogateescape") if name else b""
    if len(encoded) > _LONGEST_NAME:
        encoded = b""
    return bytes([len(encoded)]) + encoded


def _name_at(extra: bytes, at: int) -> tuple[str | None, int]:
    end = at + 1 + extra[at]
    return extra[at + 1 : end].decode("utf-8", "surrogateescape") or None, end
