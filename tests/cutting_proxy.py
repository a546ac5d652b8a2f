"""An HTTP proxy that lets a request through, kills the server behind it, and delivers half of the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.label_studio_server import Server

_HOP = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding", "host"}
Cut = Callable[[str, str], bool]


class CuttingProxy:
    """In front of a server; `cut(method, path)` says whether this request is the last that the server sees."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cut: Cut = lambda method, path: False
        self.requests: list[tuple[str, str]] = []
        self.cuts = 0
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._listener.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def cut_after(self, method: str, part: str, nth: int = 1) -> None:
        """Cut the nth request from now whose method is this and whose path contains this part."""
        seen = 0

        def cut(m: str, path: str) -> bool:
            nonlocal seen
            seen += m == method and part in path
            return seen == nth and m == method and part in path

        self.cut = cut

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                cut = proxy.cut(self.command, self.path)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
                headers["Accept-Encoding"] = "identity"
                try:
                    reply = httpx.request(
                        self.command, proxy.server.url + self.path, headers=headers, content=body, timeout=300
                    )
                except httpx.HTTPError:
                    self.close_connection = True
                    return
                content = reply.content
                if cut:
                    proxy.cuts += 1
                    proxy.server.kill()
                    self.close_connection = True
                self.send_response(reply.status_code)
                for name, value in reply.headers.items():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)

            do_GET = do_POST = do_PATCH = do_DELETE = forward  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on the test's output."""

        return Handler

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


@contextmanager
def cutting(server: Server) -> Iterator[CuttingProxy]:
    """A proxy in front of the server, for the duration of the block."""
    with CuttingProxy(server) as proxy:
        yield proxy
