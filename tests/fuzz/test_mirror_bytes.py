"""A run's manifest in a mirror's bucket: whoever can write there can have written any of it."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
import zstandard

from drtool.errors import IntegrityError
from drtool.mirror.entries import MirrorEntry, from_line, to_line
from drtool.mirror.keys import key_of, path_of
from drtool.mirror.manifests import Run, RunKind, parse_header, parse_run, write_run
from drtool.mirror.run_key import RunKey
from drtool.model.origin import Origin
from drtool.sources.files.entries import TreeEntry, TreeKind
from tests.fuzz.harness import LongRun, Reader, address_space, run_short

RUN_ID = "20240501T100000.000000Z-0a1b2c3d"
KEY = RunKey(bytes(32))
AT = datetime(2024, 5, 1, 10, tzinfo=UTC)
FILE = TreeEntry(
    path="zażółć".encode() + b"/\xff%41", kind=TreeKind.FILE, mode=0o4755, uid=33, gid=33, owner="www",
    group=None, modified_ns=-(10**18), changed_ns=10**18, inode=(1 << 64) - 1, device=0, links=1,
    size_bytes=7, xattrs=((b"security.capability", b"\0" * 20), (b"user.x", b"y")),
)  # fmt: skip
LINK = FILE._replace(path=b"link", kind=TreeKind.SYMLINK, link=b"/etc/\n", size_bytes=0)
ENTRIES = [
    MirrorEntry(tree=FILE, content="ab" * 32, etag="abc-2", version="v1"),
    MirrorEntry(tree=LINK),
    MirrorEntry(tree=FILE._replace(path=b"a//b", xattrs=()), source_etag="x", etag="x"),
]
RUN = Run(
    run_id=RUN_ID, kind=RunKind.CHANGES, previous="20240430T100000.000000Z-0a1b2c3d", source="uploads",
    began=AT, ended=AT, origin=Origin(stack=("shop",), path=("/srv",)),
)  # fmt: skip


def manifest(key: RunKey | None = None) -> bytes:
    file = io.BytesIO()
    write_run(file, RUN, [to_line(one) for one in ENTRIES], gone=[b"old", b"\xfe"], key=key)
    return file.getvalue()


def read_packed(content: bytes) -> None:
    for item in parse_run([content[:100], content[100:]], RUN_ID, None):
        key_of(path_of(key_of(item.path)) if isinstance(item, MirrorEntry) else item.path)
        if isinstance(item, MirrorEntry):
            assert from_line(to_line(item)) == item


def read_plain(content: bytes) -> None:
    """The same, with every mutation behind the packing, where checksums hide none of it."""
    read_packed(zstandard.ZstdCompressor(level=1).compress(content))


PLAIN = zstandard.ZstdDecompressor().decompressobj().decompress(manifest())
READERS = [
    Reader(name="mirror manifest packed", read=read_packed, samples=[manifest(), manifest(KEY)]),
    Reader(name="mirror manifest", read=read_plain, samples=[PLAIN]),
    Reader(name="mirror entry", read=from_line, samples=[to_line(one).encode() for one in ENTRIES]),
    Reader(
        name="mirror run",
        read=lambda content: parse_header(content, RUN_ID, KEY),
        samples=[PLAIN.splitlines()[0]],
    ),
]


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_mutated_manifests_are_refused_with_one_kind_of_error(reader: Reader) -> None:
    run_short(reader)


@pytest.mark.fuzz
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_long_mutated_manifests_are_refused_with_one_kind_of_error(
    reader: Reader, long_run: LongRun
) -> None:
    long_run(reader)


@pytest.mark.parametrize("line", [b"", b"x" * 100 + b"\n"])
def test_a_manifest_that_unpacks_beyond_all_measure_takes_little_memory(line: bytes) -> None:
    """The review: 131 KB took 4.2 GiB, for it was unpacked before its size was looked at."""
    packed = io.BytesIO()
    with zstandard.ZstdCompressor(level=1).stream_writer(packed, closefd=False) as writer:
        writer.write(PLAIN.splitlines(keepends=True)[0])
        piece = (line * (1 << 20))[: 8 << 20] if line else bytes(8 << 20)
        for _ in range(64):
            writer.write(piece)
    content = packed.getvalue()
    assert len(content) < 1 << 20

    with address_space(64 << 20), pytest.raises(IntegrityError):
        for _ in parse_run([content], RUN_ID, None):
            pass
