"""The SHA-256 of every rescue program and text that drtool put into repositories before it sealed them.

All of these programs take a slot that needs no key although one was given. They are known here so that
one of them is told apart from a program that somebody else has put in its place.
"""

from __future__ import annotations

from drtool.repository import layout

EARLIER_RESCUE: dict[str, frozenset[str]] = {
    layout.RESCUE_PROGRAM: frozenset(
        {
            "fda9edd08454bf8df6528731136e9daa7bcc41d22c6042ea2cf42e523c485735",
            "68569907a3e1d1c943a6be19df26a34a872f55e52d479bba6df6008da956d760",
            "92cc927dfe861ede3376029d0861363ff93ff5516f469b0017b06e0ea15b36ae",
            "71daa1c253d2c176213ffd7227372f7f258b4958ce5e6ef07ce513f9aa3c3b8e",
            "0063fca164845fe5ee63faae79764c59645863ca4e40702644152ee7e32a3d71",
            "b8731a0498fae57a3b9bc9a6634c1696fe5b60f5dcb3bae216a1925853a622de",
            "9c4c88ddc49e2fc4310e3339f885e9be53bdfbd9c765ed6730c7da05cea21a00",
        }
    ),
    layout.RESCUE_TEXT: frozenset(
        {
            "1f57e4aafeef6c3ea292978ac5332a90bfa5f199a3a76ee5091abba9d91ab8e9",
            "0ba701f5a95636fe6cf3aff91509711c046ce29e64a4afadbb24f821d96d2db5",
        }
    ),
}
