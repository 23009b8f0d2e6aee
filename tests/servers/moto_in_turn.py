"""moto's S3 server, one request at a time: `python -m tests.servers.moto_in_turn PORT`.

Its conditional puts look first and write then; in threads of their own two of eight could win (seen once
on a busy machine), which no S3 does. Bodies are read before, so that a slow client holds nobody up.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_HOST = "127.0.0.1"


class InTurn:
    """A WSGI application whose requests are answered one after the other."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length:
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with self._turn:
            return list(self._moto(environ, start_response))


def main() -> None:
    """Serve until killed."""
    run_simple(_HOST, int(sys.argv[1]), InTurn(), threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
