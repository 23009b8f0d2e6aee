"""The worked example of FORMAT.md: a tiny repository, byte by byte, with every key on the way.

`python -m tests.repository.example` makes a new one and puts it into FORMAT.md. The bytes are parsed
here by hand and not with drtool, so that the document cannot be wrong in the same way as the code.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from drtool.model.objective import Mark
from drtool.repository import layout
from drtool.repository.backups import begin_attempt
from drtool.repository.layout import Lineage
from drtool.repository.log import put_history
from drtool.repository.marks import put_mark
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Store
from tests.repository.building import NOW, SECRET, SYSTEM, new_repository, objects_of, store_tree

DOCUMENT = Path(__file__).parents[2] / "drtool/repository/FORMAT.md"
BEGIN, END = "<!-- example: begin -->\n", "<!-- example: end -->\n"
_OBJECT = re.compile(r"^Object `([^`\n]+)`, \d+ bytes:\n\n```\n([0-9a-f\n]+)```$", re.MULTILINE)


def make_example() -> MemoryStore:
    """A new example: one backup of one file, a history, a mark."""
    store = MemoryStore()
    repository = new_repository(store)
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        (tree / "PG_VERSION").write_bytes(b"15\n")
        begin_attempt(repository, "main", "20240501T100000Z-000001")
        store_tree(repository, tree)
    put_history(
        repository,
        "main",
        SYSTEM,
        timeline=2,
        content=b"1\t0/3000000\tno recovery target specified\n",
    )
    put_mark(repository, Lineage("main", SYSTEM, 1), Mark(NOW, 0x2000190, 1))
    return store


def parse_example(document: str) -> MemoryStore:
    """The repository that the document shows."""
    store = MemoryStore()
    for key, shown in _OBJECT.findall(document):
        store.create(key, [bytes.fromhex(shown)])
    return store


def render_example(store: Store) -> str:
    """The section of the document."""
    objects = {
        key: content for key, content in objects_of(store).items() if not key.startswith("RESCUE/")
    }
    keys = _Keys.opened(objects)
    lines = [
        "The key file holds the bytes 00 to 1f, in hexadecimal. From it and the objects below follow:\n",
        "```",
        f"repository id        {keys.repository_id.hex()}",
        f"slot key             {keys.slot_key.hex()}",
        f"master key           {keys.master.hex()}",
        f"chunk id key         {_hkdf(keys.master, b'drtool 1 chunk id').hex()}",
        f"page digest seed     {_hkdf(keys.master, b'drtool 1 page digest', 8).hex()}",
        f"wrapping key         {_hkdf(keys.master, b'drtool 1 key versions').hex()}",
        f"key version 1        {keys.version.hex()}",
        "```\n",
    ]
    for key, content in sorted(objects.items()):
        lines += [f"Object `{key}`, {len(content)} bytes:\n", "```", *_dump(content), "```\n"]
        told = _tell_pack(keys, key, content) if key.startswith("packs/") else []
        if content[:7] == b"DRTOOL1" and not told:
            told = _tell_sealed(keys, key, content)
        if told:
            lines += ["```", *told, "```\n"]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Keys:
    repository_id: bytes
    slot_key: bytes
    master: bytes
    version: bytes

    @classmethod
    def opened(cls, objects: dict[str, bytes]) -> _Keys:
        repository_id = bytes.fromhex(json.loads(objects["drtool.json"])["repository"])
        [slot] = [json.loads(content) for key, content in objects.items() if "/slot-" in key]
        salt, wrapped = (base64.b64decode(slot[name]) for name in ("salt", "wrapped"))
        slot_key = _hkdf(SECRET.content, b"drtool 1 key file", salt=salt)
        context = repository_id + f"slot {slot['slot']} {slot['kind']}".encode()
        master = AESGCM(slot_key).decrypt(wrapped[:12], wrapped[12:], context)
        sealed = objects[f"keys/{repository_id.hex()}/version-0001"]
        wrapping = AESGCM(_hkdf(master, b"drtool 1 key versions"))
        version = wrapping.decrypt(sealed[:12], sealed[12:], repository_id + b"version 1")
        return cls(repository_id, slot_key, master, version)


def _hkdf(key: bytes, info: bytes, length: int = 32, *, salt: bytes | None = None) -> bytes:
    return HKDF(SHA256(), length, salt=salt, info=info).derive(key)


def _dump(content: bytes) -> list[str]:
    return [content[place : place + 32].hex() for place in range(0, len(content), 32)]


class _Teller:
    """Names the fields of an object, one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0
        self.lines: list[str] = []

    def field(self, length: int, meaning: str) -> bytes:
        field = self.content[self.place : self.place + length]
        shown = field.hex() if length <= 16 else f"{field[:12].hex()}.. ({length} bytes)"
        self.lines.append(f"{self.place:5}  {shown:36} {meaning}")
        self.place += length
        return field

    def plain(self, plain: bytes) -> None:
        self.lines += [f"       plain: {line}" for line in _dump(plain)]


def _object_key(teller: _Teller, keys: _Keys, name: str, kind: bytes) -> tuple[AESGCM, bytes]:
    teller.field(4, "key version")
    nonce = teller.field(12, "nonce of the wrapped key")
    wrapped = teller.field(48, "object key, wrapped, and tag")
    context = keys.repository_id + kind + struct.pack(">H", len(name)) + name.encode()
    key = AESGCM(keys.version).decrypt(nonce, wrapped, context)
    teller.lines.append(f"       object key: {key.hex()}")
    teller.lines.append(f"       context: {context.hex()}")
    return AESGCM(key), context


def _open(
    cipher: AESGCM,
    context: bytes,
    sealed: bytes,
    *,
    number: int,
    codec: int,
    size: int,
    final: bool,
) -> bytes:
    bound = context + struct.pack(">QBIB", number, codec, size, final)
    packed = cipher.decrypt(number.to_bytes(12, "big"), sealed, bound)
    return zstandard.ZstdDecompressor().decompress(packed) if codec else packed


def _tell_sealed(keys: _Keys, name: str, content: bytes) -> list[str]:
    teller = _Teller(content)
    kind = teller.field(8, "DRTOOL1 and the type")[7:]
    cipher, context = _object_key(teller, keys, name, kind)
    length = int.from_bytes(teller.field(4, "sealed length of frame 0"), "big")
    flags = teller.field(1, "codec, and 80 for the last frame")[0]
    size = int.from_bytes(teller.field(4, "plain length"), "big")
    sealed = teller.field(length, "frame 0 and its tag")
    teller.plain(
        _open(cipher, context, sealed, number=0, codec=flags & 0x7F, size=size, final=True)
    )
    assert teller.place == len(content)
    return teller.lines


def _tell_pack(keys: _Keys, name: str, content: bytes) -> list[str]:
    length = int.from_bytes(content[-8:-4], "big")
    footer = len(content) - 8 - length
    tail = _Teller(content)
    tail.place = footer
    count = int.from_bytes(tail.field(4, "number of chunks"), "big")
    codec = tail.field(1, "codec of the footer")[0]
    size = int.from_bytes(tail.field(4, "plain length of the footer"), "big")
    sealed = tail.field(length - 9 - 64, "footer and its tag")
    cipher, context = _object_key(tail, keys, name, b"P")
    tail.field(4, "length of the footer with its key block")
    tail.field(4, "DRT.")
    rows = _open(cipher, context, sealed, number=count, codec=codec, size=size, final=True)
    tail.plain(rows)
    body = _Teller(content)
    body.field(8, "DRTOOL1 and the type")
    for number in range(count):
        row = rows[41 * number : 41 * number + 41]
        sealed_bytes, size, codec = struct.unpack(">IIB", row[:9])
        sealed = body.field(sealed_bytes, f"chunk {number} and its tag")
        body.plain(
            _open(cipher, context, sealed, number=number, codec=codec, size=size, final=False)
        )
    assert (body.place, tail.place) == (footer, len(content))
    return body.lines + tail.lines


def replace_example(document: str, section: str) -> str:
    """The document with another example."""
    before, _, rest = document.partition(BEGIN)
    return before + BEGIN + "\n" + section + "\n" + END + rest.partition(END)[2]


def shown_example(document: str) -> str:
    """The section as the document has it."""
    return document.partition(BEGIN)[2].partition(END)[0].strip("\n") + "\n"


if __name__ == "__main__":
    made = make_example()
    made.delete(layout.RESCUE_PROGRAM)
    made.delete(layout.RESCUE_TEXT)
    DOCUMENT.write_text(replace_example(DOCUMENT.read_text(), render_example(made)))
