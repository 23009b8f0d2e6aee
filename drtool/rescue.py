"""`python -m drtool.rescue`: the second reader, from the package and not from the repository it reads.

Needs the standard library, zstandard and cryptography, and nothing else of drtool.
"""

from __future__ import annotations

from drtool.repository.rescue import main

if __name__ == "__main__":
    main()
