"""One thing that the mirror knows: a file with its object, a directory or a link, as a line of JSON."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted

from drtool.errors import IntegrityError
from drtool.mirror.keys import escape, key_of, unescape
from drtool.sources.files.entries import Attribute, TreeEntry, TreeKind
from drtool.sources.files.unchanged import Signs
from drtool.stores.bucket import Placed

# Escaped: three characters for a byte. The longest that a walk meets has some 4 KiB.
_MOST_PATH_BYTES = 3 << 16
_LONGEST_TEXT = 1024
# 2^32 - 1 means to leave the owner as it is.
_MOST_ID = (1 << 32) - 2
_MOST_NANOSECONDS = (1 << 63) * 10**9
_MODE = re.compile("[0-7]{1,4}")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorEntry:
    """`tree` is what a restore makes again. Files have an object, under `key`.

    `content` is the SHA-256 of the object in hexadecimal, None where a server copied it and nobody
    read it; `etag` and `version` are what the bucket said of it. `source_etag` is that of the object
    it was copied from, where the source is a bucket: the key is that object's own then, unescaped.
    """

    tree: TreeEntry
    content: str | None = None
    etag: str | None = None
    version: str | None = None
    source_etag: str | None = None

    @property
    def path(self) -> bytes:
        """Relative to the root of the tree."""
        return self.tree.path

    @property
    def key(self) -> str:
        """The object's key below the mirror's prefix."""
        if self.source_etag is not None:
            return self.tree.path.decode()
        return key_of(self.tree.path)

    @property
    def signs(self) -> Signs:
        """What tells whether the file was touched since."""
        tree = self.tree
        return Signs(
            size_bytes=tree.size_bytes,
            modified_ns=tree.modified_ns,
            changed_ns=tree.changed_ns,
            inode=tree.inode,
        )


def stored_entry(tree: TreeEntry, content: str, placed: Placed) -> MirrorEntry:
    """A file that has just been put."""
    return MirrorEntry(tree=tree, content=content, etag=placed.etag, version=placed.version)


def to_line(entry: MirrorEntry) -> str:
    """The entry as one line of JSON, the same text for the same entry."""
    # Written by hand: json.dumps took a tenth of the time of a run over small files.
    tree = entry.tree
    line = (
        f'{{"key":{_quoted(entry.key)},"kind":"{tree.kind}","mode":"{tree.mode:04o}"'
        f',"uid":{tree.uid},"gid":{tree.gid},"owner":{_quoted_or_null(tree.owner)}'
        f',"group":{_quoted_or_null(tree.group)},"mtime_ns":{tree.modified_ns}'
    )
    if tree.kind is TreeKind.FILE:
        line += (
            f',"size":{tree.size_bytes},"ctime_ns":{tree.changed_ns},"inode":{tree.inode}'
            f',"sha256":{_quoted_or_null(entry.content)},"etag":{_quoted_or_null(entry.etag)}'
            f',"version":{_quoted_or_null(entry.version)}'
        )
    if entry.source_etag is not None:
        line += f',"source_etag":{_quoted(entry.source_etag)}'
    if tree.kind is TreeKind.SYMLINK:
        line += f',"link":{_quoted(escape(tree.link))}'
    if tree.xattrs:
        pairs = (
            f'{_quoted(escape(name))}:"{base64.b64encode(value).decode()}"'
            for name, value in tree.xattrs
        )
        line += f',"xattrs":{{{",".join(pairs)}}}'
    return line + "}"


def _quoted_or_null(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def from_line(line: str | bytes) -> MirrorEntry:
    """What `to_line` wrote; IntegrityError for anything else."""
    try:
        record = json.loads(line)
        kind = TreeKind(record["kind"])
        source_etag = _told_by_store(record.get("source_etag"))
        key = _text(record["key"], _MOST_PATH_BYTES)
        link = unescape(_text(record.get("link", ""), _MOST_PATH_BYTES))
        if (kind is TreeKind.SYMLINK) is not bool(link) or b"\0" in link:
            raise ValueError("a link leads nowhere")
        tree = TreeEntry(
            path=unescape(key) if source_etag is None else key.encode(),
            kind=kind,
            mode=_mode(record["mode"]),
            uid=_whole(record["uid"], _MOST_ID),
            gid=_whole(record["gid"], _MOST_ID),
            owner=_name(record["owner"]),
            group=_name(record["group"]),
            modified_ns=_nanoseconds(record["mtime_ns"]),
            changed_ns=_nanoseconds(record.get("ctime_ns", 0)),
            inode=_whole(record.get("inode", 0), (1 << 64) - 1),
            device=0,
            links=1,
            size_bytes=_whole(record.get("size", 0), (1 << 63) - 1),
            link=link,
            xattrs=_xattrs(record.get("xattrs", {})),
        )
        return MirrorEntry(
            tree=tree,
            content=_sha256(record.get("sha256")),
            etag=_told_by_store(record.get("etag")),
            version=_told_by_store(record.get("version")),
            source_etag=source_etag,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            "a run's manifest in the mirror holds a line that drtool does not write",
            hint="Run `drtool sync --rehash` to write a whole manifest again.",
        ) from error


# Called for each member of each line: short, and of exact types, for `True` is an int to isinstance.
def _whole(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number that it could be")
    return value


def _nanoseconds(value: object) -> int:
    if type(value) is not int or abs(value) > _MOST_NANOSECONDS:
        raise ValueError("not a time")
    return value


def _mode(value: object) -> int:
    if type(value) is not str or _MODE.fullmatch(value) is None:
        raise ValueError("not a mode")
    return int(value, 8)


def _text(value: object, most: int) -> str:
    if type(value) is not str or len(value) > most:
        raise ValueError("not a text")
    value.encode()
    return value


def _name(value: object) -> str | None:
    if value is None:
        return None
    if "\0" in _text(value, _LONGEST_TEXT):
        raise ValueError("not a name")
    return str(value)


def _told_by_store(value: object) -> str | None:
    """An etag or version: it goes into a request's headers and query."""
    if value is None:
        return None
    text = _text(value, _LONGEST_TEXT)
    if not (text.isascii() and text.isprintable()):
        raise ValueError("not what a store says")
    return text


def _sha256(value: object) -> str | None:
    if value is None:
        return None
    if type(value) is not str or _SHA256.fullmatch(value) is None:
        raise ValueError("not a digest")
    return value


def _xattrs(value: dict[str, str]) -> tuple[Attribute, ...]:
    if not value:
        return ()
    pairs = [
        (unescape(name), base64.b64decode(text, validate=True)) for name, text in value.items()
    ]
    if any(
        not name or b"\0" in name or len(name) > 255 or len(text) > 65536 for name, text in pairs
    ):
        raise ValueError("not an extended attribute")
    return tuple(sorted(pairs))
