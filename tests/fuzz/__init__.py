"""Hostile bytes for every reader of bytes from outside: only a typed error, in bounded time and memory.

`make test` gives each reader a short run from a fixed seed; `make fuzz` gives all of them ten minutes
from a seed that it prints. A failure names the reader, the seed and the number of the case, from which
the very bytes are made again.
"""
