"""FORMAT.md is true: its example opens, field by field and with drtool, and its numbers are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from drtool.pipeline.pages import PAGE_BYTES
from drtool.repository import chunks, keys, layout, records, sealing, table
from drtool.repository.backups import encode_manifest, open_table, read_manifests
from drtool.repository.chunks import ChunkReader
from drtool.repository.layout import Lineage
from drtool.repository.log import read_history
from drtool.repository.marks import newest_mark
from drtool.repository.places import ChunkPlace
from drtool.repository.repository import open_repository
from drtool.repository.sealing import ObjectType
from tests.repository.building import SECRET, SYSTEM
from tests.repository.example import DOCUMENT, parse_example, render_example, shown_example

ROOM = DOCUMENT.parent


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text()


def test_the_fields_of_the_example_are_what_the_document_says(document: str) -> None:
    assert render_example(parse_example(document)).strip("\n") + "\n" == shown_example(document)


def test_drtool_reads_the_example(document: str) -> None:
    repository = open_repository(parse_example(document), SECRET)
    [manifest], errors = read_manifests(repository, "main")
    reader = ChunkReader(repository.store, repository.ring)

    [record] = open_table(manifest, reader)
    extent = record.extents[0]
    plain = reader.read_one(ChunkPlace(manifest.packs[extent["pack"]], int(extent["chunk"])))

    assert errors == []
    assert (record.attributes.path, bytes(plain)) == (b"PG_VERSION", b"15\n")
    assert read_history(repository, "main", SYSTEM, timeline=2).path() == (1, 2)
    mark = newest_mark(repository, Lineage("main", SYSTEM, 1), most_lsn=2**64 - 1)
    assert mark is not None
    assert mark.lsn == 0x2000190


def test_drtool_still_writes_the_manifest_of_the_example_in_the_same_bytes(document: str) -> None:
    repository = open_repository(parse_example(document), SECRET)
    [manifest], _ = read_manifests(repository, "main")
    key = layout.manifest_key("main", manifest.backup_id)

    stored = repository.get(ObjectType.MANIFEST, key)

    assert encode_manifest(manifest) == stored
    fields = set(re.findall(r'"(\w+)":', stored.decode()))
    described = document.partition("## 7.")[2].partition("## 8.")[0]
    assert {field for field in fields if f"`{field}`" not in described} == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scrypt N", keys.SCRYPT_N),
        ("scrypt r", keys.SCRYPT_R),
        ("scrypt p", keys.SCRYPT_P),
        ("key block", sealing.KEY_BLOCK_BYTES),
        ("prefix", sealing.PREFIX_BYTES),
        ("frame", sealing.FRAME_BYTES),
        ("largest frame", sealing.LARGEST_FRAME_BYTES),
        ("smallest sealed object", sealing.SMALLEST_SEALED_BYTES),
        ("chunk", chunks.CHUNK_BYTES),
        ("largest chunk", chunks.LARGEST_CHUNK_BYTES),
        ("pack", chunks.PACK_BYTES),
        ("most chunks", chunks.MOST_CHUNKS),
        ("footer row", chunks._FOOTER_ROW.itemsize),
        ("record head", records.RECORD_HEAD.size),
        ("record covers", table.RECORD_COVERS_BYTES),
        ("page", PAGE_BYTES),
    ],
)
def test_a_number_in_the_document_is_the_number_in_the_code(
    document: str, name: str, value: int
) -> None:
    assert f"| {name} | {value:,} |" in document


def test_every_type_of_object_is_described(document: str) -> None:
    for kind in ObjectType:
        assert f"| `{kind.value.decode()}` |" in document


def test_sections_that_the_code_refers_to_exist_and_are_about_it(document: str) -> None:
    sections = dict(re.findall(r"^## (\d+)\. (.+)$", document, re.MULTILINE))
    for path in sorted([*ROOM.glob("*.py"), *(ROOM.parent / "verify").glob("*.py")]):
        for numbers in re.findall(r"FORMAT\.md,? sections? (\d+(?: and \d+)?)", path.read_text()):
            for number in numbers.split(" and "):
                assert number in sections, path.name

    assert (sections["5"], sections["6"], sections["7"]) == ("Packs", "File tables", "Manifests")


def test_the_document_names_every_field_of_the_plain_objects(document: str) -> None:
    store = parse_example(document)
    before_example = document.partition("<!-- example: begin -->")[0]
    for key in (found.key for found in store.list("")):
        if key.endswith(".json"):
            for field in json.loads(store.read(key)):
                assert f"`{field}`" in before_example, (key, field)


def test_the_document_and_the_way_back_travel_with_the_package() -> None:
    for name in ("FORMAT.md", "rescue.py", "rescue.txt"):
        assert (Path(layout.__file__).parent / name).stat().st_size > 1000
