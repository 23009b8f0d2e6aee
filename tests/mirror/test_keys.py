"""The key of a file: readable where it can be, and always turned back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drtool.mirror.keys import is_own, key_of, path_of

_NAME = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text("%0aAfF2E.d\\", min_size=1, max_size=8).map(str.encode),
).filter(lambda name: not set(name) & {0, 47})


@given(st.lists(_NAME, min_size=1, max_size=4).map(b"/".join))
def test_every_path_is_turned_back_from_its_key_and_is_no_key_of_the_mirrors_own(
    path: bytes,
) -> None:
    key = key_of(path)

    assert path_of(key) == path
    assert not is_own(key)
    assert not any(ord(sign) < 32 or sign in "\\\x7f" for sign in key)


def test_plain_names_stay_as_they_are() -> None:
    for name in ("a b+c.txt", "100%", "50% off", "żółć/日本語.pdf", "a=b&c?#;:@!$'()*,[]~^|\"<>{}"):
        assert key_of(name.encode()) == name


def test_what_no_store_can_hold_is_escaped_byte_by_byte() -> None:
    assert key_of(b"a\xffb\n") == "a%FFb%0A"
    assert key_of(b"%41") == "%2541"
    assert key_of(b".drtool/runs/x") == "%2Edrtool/runs/x"
    assert key_of(b"a/.drtool") == "a/.drtool"
