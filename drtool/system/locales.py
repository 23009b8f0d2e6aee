"""Whether the C library of this machine knows a locale. Nothing of this process is changed."""

from __future__ import annotations

import ctypes
import os

_EVERY_CATEGORY = 0x1FBF  # LC_ALL_MASK of glibc: bits 0 to 5 and 7 to 12


def is_locale_known(name: str) -> bool:
    """As newlocale(3) says, which PostgreSQL asks too; true where the C library cannot be asked."""
    try:
        library = ctypes.CDLL(None)
        make, free = library.newlocale, library.freelocale
    except (OSError, AttributeError):
        return True
    make.restype, make.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    free.restype, free.argtypes = None, (ctypes.c_void_p,)
    made = make(_EVERY_CATEGORY, os.fsencode(name), None)
    if made is None:
        return False
    free(made)
    return True
