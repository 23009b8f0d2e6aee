"""Sealed objects: every bit counts, and so do place, order and end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import IntegrityError
from drtool.repository.keys import KeyRing
from drtool.repository.sealing import (
    FRAME_BYTES,
    KEY_BLOCK_BYTES,
    PREFIX_BYTES,
    SMALLEST_SEALED_BYTES,
    Compressor,
    ObjectType,
    SealedWriter,
    new_seal,
    seal_whole,
    unseal_whole,
)

RING = KeyRing(b"repository id 16", b"m" * 32, {1: b"1" * 32, 2: b"2" * 32})
NAME = "log/main/1/00000001/000000010000000000000001"


def sealed(plain: bytes, *, name: str = NAME, kind: ObjectType = ObjectType.LOG) -> bytes:
    return b"".join(seal_whole(RING, kind, name, plain=[plain]))


def opened(content: bytes, *, name: str = NAME, kind: ObjectType = ObjectType.LOG) -> bytes:
    return unseal_whole(RING, kind, name, sealed=content)


def in_frames(*plain: bytes) -> tuple[bytes, list[bytes]]:
    """The head of a sealed object, and each of its frames with its header."""
    writer = SealedWriter(new_seal(RING, ObjectType.LOG, NAME), ObjectType.LOG, Compressor(1))
    head = b"".join(writer.take())
    frames = []
    for one in plain:
        # A full frame is closed by the byte that follows it.
        writer.write(one.ljust(FRAME_BYTES, b"."))
        frames.append(b"".join(writer.take()))
    frames.append(b"".join(writer.finish()))
    return head, [frame for frame in frames if frame]


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(max_size=3000) | st.just(b"page" * 400_000), max_size=4))
def test_what_is_sealed_opens_to_the_same_bytes(pieces: list[bytes]) -> None:
    parts = seal_whole(RING, ObjectType.LOG, NAME, plain=pieces)

    assert opened(b"".join(parts)) == b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1])
def test_sizes_around_a_frame_come_back(size: int) -> None:
    plain = bytes(range(256)) * (size // 256 + 1)

    assert opened(sealed(plain[:size])) == plain[:size]


def test_the_smallest_object_is_as_small_as_is_said() -> None:
    assert len(sealed(b"")) == SMALLEST_SEALED_BYTES


def test_every_single_flipped_bit_is_detected() -> None:
    content = sealed(b"WAL of one kind or another " * 5)

    for place in range(len(content) * 8):
        broken = bytearray(content)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(IntegrityError, match=NAME):
            opened(bytes(broken))


def test_truncation_at_every_length_is_detected() -> None:
    content = sealed(b"WAL of one kind or another " * 5)

    for length in range(len(content)):
        with pytest.raises(IntegrityError, match=NAME):
            opened(content[:length])


def test_appended_bytes_are_detected() -> None:
    content = sealed(b"WAL")

    for more in (b"\0", content, content[PREFIX_BYTES + KEY_BLOCK_BYTES :]):
        with pytest.raises(IntegrityError):
            opened(content + more)


def test_frames_in_another_order_left_out_or_twice_are_detected() -> None:
    head, frames = in_frames(b"first", b"second", b"third")
    assert opened(head + b"".join(frames)).startswith(b"first")
    a, b, c = frames

    for wrong in ([b, a, c], [a, c], [b, c], [a, a, b, c], [a, b, c, c], [a, b], [c]):
        with pytest.raises(IntegrityError):
            opened(head + b"".join(wrong))


def test_an_object_cut_between_frames_and_marked_as_whole_is_detected() -> None:
    """The mark of the last frame is authenticated with it, both ways."""
    head, frames = in_frames(b"first", b"second")
    for number, frame in enumerate(frames):
        turned = bytearray(frame)
        turned[4] ^= 0x80

        with pytest.raises(IntegrityError, match="authentication"):
            opened(head + b"".join(frames[:number]) + bytes(turned))


def test_frames_of_another_object_do_not_fit() -> None:
    head, frames = in_frames(b"first", b"second")
    other_head, other = in_frames(b"first", b"second")

    for wrong in (head + other[0] + frames[1], other_head + frames[0] + frames[1]):
        with pytest.raises(IntegrityError):
            opened(wrong)


def test_an_object_under_another_name_or_type_or_in_another_repository_does_not_open() -> None:
    """Replay of an old segment under a newer name, and objects swapped for each other."""
    content = sealed(b"WAL")
    elsewhere = KeyRing(b"repository id 17", RING.master, RING.versions)

    with pytest.raises(IntegrityError):
        opened(content, name=NAME[:-1] + "2")
    with pytest.raises(IntegrityError):
        opened(b"DRTOOL1K" + content[8:], kind=ObjectType.MARK)
    with pytest.raises(IntegrityError):
        unseal_whole(elsewhere, ObjectType.LOG, NAME, sealed=content)


def test_names_and_types_cannot_be_shifted_into_each_other() -> None:
    content = sealed(b"x", name="ab", kind=ObjectType.LOG)

    for name in ("abL", "a", "b", "aab", ""):
        with pytest.raises(IntegrityError):
            opened(content, name=name)


def test_equal_content_is_sealed_differently_each_time() -> None:
    assert sealed(b"same")[PREFIX_BYTES + 4 :] != sealed(b"same")[PREFIX_BYTES + 4 :]


def test_an_object_of_an_older_key_version_opens_and_of_an_unknown_one_says_so() -> None:
    old = KeyRing(RING.repository_id, RING.master, {1: RING.versions[1]})
    by_old = b"".join(seal_whole(old, ObjectType.LOG, NAME, plain=[b"old"]))

    assert opened(by_old) == b"old"
    with pytest.raises(IntegrityError, match="key version 2"):
        unseal_whole(old, ObjectType.LOG, NAME, sealed=sealed(b"new"))


def test_headers_that_ask_for_much_memory_are_refused() -> None:
    content = bytearray(sealed(b"x" * 100))
    place = PREFIX_BYTES + KEY_BLOCK_BYTES
    content[place + 5 : place + 9] = b"\xff\xff\xff\xff"

    with pytest.raises(IntegrityError):
        opened(bytes(content))
