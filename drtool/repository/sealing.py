"""Sealed objects: bytes that only the repository's key opens, and only in the place they were put.

Each object has a random key of its own, wrapped by a key version. Nonces are counters, so no
nonce can repeat. The associated data binds every frame to the repository, the object's type and
name, its number and whether it is the last: swapped, replayed, cut or joined objects fail.
The bytes are described in FORMAT.md, sections 3 and 4.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from drtool.errors import IntegrityError, NotAuthentic
from drtool.repository.keys import KEY_BYTES, WRAPPED_BYTES, KeyRing, unwrap_key, wrap_key
from drtool.stores.protocol import LARGEST_OBJECT_BYTES

Buffer = bytes | bytearray | memoryview

TAG_BYTES = 16
FRAME_BYTES = 1 << 20
LARGEST_FRAME_BYTES = 4 << 20
KEY_BLOCK_BYTES = 4 + WRAPPED_BYTES
PREFIX_BYTES = 8
HEAD_BYTES = PREFIX_BYTES + KEY_BLOCK_BYTES
_FRAME_HEADER = struct.Struct(">IBI")  # sealed length, codec | final << 7, plain length
_FINAL = 0x80
SMALLEST_SEALED_BYTES = PREFIX_BYTES + KEY_BLOCK_BYTES + _FRAME_HEADER.size + TAG_BYTES


class ObjectType(Enum):
    """The eighth byte of every sealed object."""

    PACK = b"P"
    MANIFEST = b"M"
    ATTEMPT = b"A"
    LOG = b"L"
    MARK = b"K"
    EVIDENCE = b"E"

    @property
    def magic(self) -> bytes:
        return b"DRTOOL1" + self.value


# Of the plain bytes in an object that is opened whole. A manifest names each pack of 32 MiB in 35 bytes;
# words of the log and marks are a few hundred, segments of it have limits of their own (`log.py`).
_MOST_PLAIN_BYTES = {
    ObjectType.MANIFEST: 256 << 20,
    ObjectType.ATTEMPT: 4 << 10,
    ObjectType.LOG: 4 << 20,
    ObjectType.MARK: 64 << 10,
    ObjectType.EVIDENCE: 16 << 20,
}


def most_plain_bytes(object_type: ObjectType) -> int:
    """How many plain bytes an object may have that is opened whole and is no segment of a log."""
    return _MOST_PLAIN_BYTES[object_type]


def most_sealed_bytes(plain_bytes: int) -> int:
    """How large a sealed object of so many plain bytes may be; frames below 1 KiB were never written."""
    return SMALLEST_SEALED_BYTES + plain_bytes + plain_bytes // 16


class Codec(Enum):
    """How a frame or chunk is packed before it is sealed."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class ObjectSeal:
    """The opened key of one object, and what its frames are bound to. Any thread may use it."""

    name: str
    cipher: AESGCM
    context: bytes
    key_block: bytes

    def associated(self, number: int, codec: Codec, plain_bytes: int, *, final: bool) -> bytes:
        """Associated data of frame or chunk `number`."""
        tail = struct.pack(">QBIB", number, codec.value, plain_bytes, final)
        return self.context + tail


def new_seal(ring: KeyRing, object_type: ObjectType, name: str) -> ObjectSeal:
    """A fresh object key, wrapped by the newest key version."""
    key = os.urandom(KEY_BYTES)
    context = _object_context(ring, object_type, name)
    wrapped = wrap_key(ring.versions[ring.newest], key, context)
    return ObjectSeal(name, AESGCM(key), context, struct.pack(">I", ring.newest) + wrapped)


def open_seal(
    ring: KeyRing, object_type: ObjectType, name: str, *, key_block: Buffer
) -> ObjectSeal:
    """The key from an object's key block; NotAuthentic if it does not open."""
    block = bytes(key_block)
    if len(block) != KEY_BLOCK_BYTES:
        raise not_authentic(name, "it is cut short")
    (version,) = struct.unpack(">I", block[:4])
    if version not in ring.versions:
        raise not_authentic(
            name,
            f"it is sealed under key version {version}, which did not open, or was not there, when this"
            " run began",
        )
    context = _object_context(ring, object_type, name)
    try:
        key = unwrap_key(ring.versions[version], block[4:], context)
    except InvalidTag:
        raise not_authentic(name, "its key does not open") from None
    return ObjectSeal(name, AESGCM(key), context, block)


_ADVICE = (
    "Run `drtool verify --whole` to see what else is, and restore from another backup meanwhile."
)


def damaged(name: str, fact: str) -> IntegrityError:
    """The error for an object that is not what was written."""
    error = IntegrityError(f"object {name} is damaged: {fact}", hint=_ADVICE)
    error.key = name
    return error


def not_authentic(name: str, fact: str) -> NotAuthentic:
    """The error for an object that nobody with the key has put under this name, as far as its head tells."""
    error = NotAuthentic(f"object {name} is damaged: {fact}", hint=_ADVICE)
    error.key = name
    return error


def _object_context(ring: KeyRing, object_type: ObjectType, name: str) -> bytes:
    encoded = name.encode()
    return ring.repository_id + object_type.value + struct.pack(">H", len(encoded)) + encoded


class Compressor:
    """zstd with a context of its own: one per thread. Raw where packing saves under a twentieth."""

    def __init__(self, level: int) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_checksum=False)

    def pack(self, plain: Buffer) -> tuple[Codec, Buffer]:
        """`plain` packed, or `plain` itself where packing does not pay."""
        packed = self._zstd.compress(plain)
        if len(packed) * 20 >= len(plain) * 19:
            return Codec.RAW, plain
        return Codec.ZSTD, packed


def unpack(codec: Codec, packed: Buffer, plain_bytes: int, *, name: str) -> memoryview:
    """The plain bytes of an authenticated frame; IntegrityError if the length is not `plain_bytes`."""
    if codec is Codec.RAW:
        plain = memoryview(packed)
    else:
        try:
            # Where the packed bytes tell a size themselves, the library makes room for that.
            told = zstandard.frame_content_size(packed)
            if told > plain_bytes:
                raise damaged(name, "a frame has another length than it says")
            decompressor = zstandard.ZstdDecompressor()
            plain = memoryview(decompressor.decompress(packed, max_output_size=plain_bytes))
        except zstandard.ZstdError as error:
            raise damaged(name, f"a frame does not unpack ({error})") from error
    if len(plain) != plain_bytes:
        raise damaged(name, "a frame has another length than it says")
    return plain


class SealedWriter:
    """Build a sealed object from plain bytes as they come, in frames of 1 MiB.

    One thread at a time. Holds at most one frame of plain bytes besides the sealed parts, which
    `take` hands out as they are ready.
    """

    def __init__(self, seal: ObjectSeal, object_type: ObjectType, compressor: Compressor) -> None:
        self._seal = seal
        self._compressor = compressor
        self._number = 0
        self._frame = bytearray()
        self._parts: list[bytes] = [object_type.magic, seal.key_block]

    def write(self, plain: Buffer) -> None:
        """Add bytes at the end."""
        view = memoryview(plain)
        while view:
            room = FRAME_BYTES - len(self._frame)
            if room == 0:
                self._close_frame(final=False)
                continue
            self._frame += view[:room]
            view = view[room:]

    def take(self) -> list[bytes]:
        """The sealed parts that are ready and were not taken yet."""
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[bytes]:
        """Seal the last frame; return the parts not taken yet. The writer is not used afterwards."""
        self._close_frame(final=True)
        return self.take()

    def _close_frame(self, *, final: bool) -> None:
        plain_bytes = len(self._frame)
        codec, packed = self._compressor.pack(self._frame)
        aad = self._seal.associated(self._number, codec, plain_bytes, final=final)
        sealed = self._seal.cipher.encrypt(self._number.to_bytes(12, "big"), bytes(packed), aad)
        flags = codec.value | (_FINAL if final else 0)
        self._parts += [_FRAME_HEADER.pack(len(sealed), flags, plain_bytes), sealed]
        self._number += 1
        self._frame = bytearray()


def seal_whole(
    ring: KeyRing, object_type: ObjectType, name: str, *, plain: Iterable[Buffer]
) -> list[bytes]:
    """The parts of a sealed object that holds `plain`."""
    writer = SealedWriter(new_seal(ring, object_type, name), object_type, Compressor(1))
    for part in plain:
        writer.write(part)
    return writer.finish()


def open_head(ring: KeyRing, object_type: ObjectType, name: str, *, head: Buffer) -> ObjectSeal:
    """The key in the first `HEAD_BYTES` of an object that is made of frames; NotAuthentic if it is none.

    Only a holder of the repository's key can make such a head, for one name each.
    """
    view = memoryview(head)
    if view[:PREFIX_BYTES] != object_type.magic:
        raise not_authentic(name, "it does not begin as a sealed object of its type does")
    return open_seal(ring, object_type, name, key_block=view[PREFIX_BYTES:HEAD_BYTES])


def unseal_frames(
    ring: KeyRing, object_type: ObjectType, name: str, *, sealed: Buffer
) -> Iterator[memoryview]:
    """The plain frames of a sealed object, each authenticated before it is handed out.

    An object that was cut at a frame's end raises only when the frames before were handed out:
    use `unseal_whole`, or use nothing before the iteration has ended.
    """
    view = memoryview(sealed)
    seal = open_head(ring, object_type, name, head=view[:HEAD_BYTES])
    place = HEAD_BYTES
    number, final = 0, False
    while not final:
        if len(view) < place + _FRAME_HEADER.size:
            raise damaged(name, "it is cut short")
        length, flags, plain_bytes = _FRAME_HEADER.unpack(view[place : place + _FRAME_HEADER.size])
        place += _FRAME_HEADER.size
        final = bool(flags & _FINAL)
        if plain_bytes > LARGEST_FRAME_BYTES or len(view) < place + length:
            raise damaged(name, "it is cut short")
        codec = _codec(flags & ~_FINAL, name)
        packed = open_frame(
            seal, number, view[place : place + length], codec=codec, plain_bytes=plain_bytes, final=final
        )  # fmt: skip
        yield unpack(codec, packed, plain_bytes, name=name)
        place += length
        number += 1
    if place != len(view):
        raise damaged(name, "there are bytes after its end")


def unseal_whole(
    ring: KeyRing,
    object_type: ObjectType,
    name: str,
    *,
    sealed: Buffer,
    most_bytes: int = LARGEST_OBJECT_BYTES,
) -> bytes:
    """All plain bytes of a sealed object, authenticated to its end; IntegrityError for more than so many."""
    frames: list[memoryview] = []
    left = most_bytes
    for frame in unseal_frames(ring, object_type, name, sealed=sealed):
        left -= len(frame)
        if left < 0:
            raise damaged(name, f"it holds more than {most_bytes} bytes")
        frames.append(frame)
    return b"".join(frames)


def open_frame(
    seal: ObjectSeal, number: int, sealed: Buffer, *, codec: Codec, plain_bytes: int, final: bool
) -> bytes:
    """Authenticate and decrypt one frame or chunk; the result is still packed."""
    aad = seal.associated(number, codec, plain_bytes, final=final)
    try:
        return seal.cipher.decrypt(number.to_bytes(12, "big"), sealed, aad)
    except InvalidTag:
        raise damaged(seal.name, f"frame {number} fails authentication") from None


def _codec(value: int, name: str) -> Codec:
    try:
        return Codec(value)
    except ValueError:
        raise damaged(name, f"unknown codec {value}") from None
