"""One thing that the mirror knows: a file with its object, a directory or a link, as a line of JSON."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted

from drtool.errors import IntegrityError
from drtool.mirror.keys import escape, key_of, unescape
from drtool.sources.files.entries import Attribute, TreeEntry, TreeKind
from drtool.sources.files.unchanged import Signs
from drtool.stores.bucket import Placed


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
        xattrs: tuple[Attribute, ...] = tuple(
            sorted(
                (unescape(name), base64.b64decode(value))
                for name, value in record.get("xattrs", {}).items()
            )
        )
        tree = TreeEntry(
            path=record["key"].encode() if "source_etag" in record else unescape(record["key"]),
            kind=kind,
            mode=int(record["mode"], 8),
            uid=record["uid"],
            gid=record["gid"],
            owner=record["owner"],
            group=record["group"],
            modified_ns=record["mtime_ns"],
            changed_ns=record.get("ctime_ns", 0),
            inode=record.get("inode", 0),
            device=0,
            links=1,
            size_bytes=record.get("size", 0),
            link=unescape(record.get("link", "")),
            xattrs=xattrs,
        )
        return MirrorEntry(
            tree=tree,
            content=record.get("sha256"),
            etag=record.get("etag"),
            version=record.get("version"),
            source_etag=record.get("source_etag"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            "a run's manifest in the mirror holds a line that drtool does not write",
            hint="Run `drtool sync --rehash` to write a whole manifest again.",
        ) from error
