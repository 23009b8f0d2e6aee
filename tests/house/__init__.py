"""The rules of the house, each a plain function: parsed modules in, violations out.

The floors are in `tests/test_house.py`, which also proves of every rule that it can fail.
"""
