"""Redirects, followed with their method and body; headers of ours, which hold keys, go to no other host.

No request goes through a proxy: HTTP_PROXY and its like are not read, for completions and checks alike.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from email.message import Message
from typing import IO
from urllib.parse import urljoin, urlsplit

from transforms.llm.statuses import MOVED
from transforms.llm.wire import USER_AGENT, Answer, CannotConnectError, CutError, Wire, named

MOST = 5  # redirects in a row
_FOR_GOOD = frozenset({301, 308})
_PORTS = {"http": 80, "https": 443}


class RedirectError(ConnectionError):
    """A redirect that leads nowhere, or where no request of ours may go."""


class Redirects:
    """Follows what a server answers with a redirect.

    Args:
        url: the server's address.
        headers: ours, for this host alone.
        wire: to this host.

    Attributes:
        moved: path -> address to which it moved for good.
    """

    def __init__(self, url: str, headers: Mapping[str, str], wire: Wire) -> None:
        parts = urlsplit(url)
        self._home = f"{parts.scheme}://{parts.netloc}"
        self._headers = headers
        self._wire = wire
        self._elsewhere: dict[str, Wire] = {}
        self.moved: dict[str, str] = {}

    async def follow(self, method: str, path: str, body: bytes, timeout_s: float, answer: Answer | None) -> Answer:
        """Send a request where it was redirected to.

        Args:
            answer: the redirect; None for a path that moved for good.

        Raises:
            RedirectError: it leads nowhere.
            CutError, TimeoutError: see `Wire.ask`.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        url, is_for_good = f"{self._home}{path}", True
        for _ in range(MOST):
            if answer is None:
                target = self.moved[path]
            else:
                target = _target(url, answer)
                is_for_good = is_for_good and answer.status in _FOR_GOOD
                if is_for_good:
                    self.moved[path] = target
            url = target
            wire = self._to(url)
            parts = urlsplit(url)
            where = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            try:
                answer = await wire.ask(method, where, body, max(0.001, give_up - loop.time()))
            except CannotConnectError as error:
                self.moved.pop(path, None)
                raise CutError(f"redirected to {url}, which cannot be reached: {error}") from error
            if answer.status not in MOVED:
                is_ours = wire is self._wire or keeps_headers(self._home, url)
                return answer if is_ours or not self._headers else replace(answer, keyless=parts.netloc)
        self.moved.pop(path, None)
        raise RedirectError(f"more than {MOST} redirects, the last one to {url}")

    def close(self) -> None:
        """End all connections to other hosts."""
        for wire in self._elsewhere.values():
            wire.close()

    def _to(self, url: str) -> Wire:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin == self._home:
            return self._wire
        if origin not in self._elsewhere:
            self._elsewhere[origin] = Wire(url, self._headers if keeps_headers(self._home, url) else {})
        return self._elsewhere[origin]


def keeps_headers(home: str, url: str) -> bool:
    """Whether a redirect stays with the host that our headers are for: same name and port, or up to https."""
    old, new = urlsplit(home), urlsplit(url)
    if old.hostname != new.hostname:
        return False
    ports = [parts.port or _PORTS.get(parts.scheme) for parts in (old, new)]
    if old.scheme == new.scheme:
        return ports[0] == ports[1]
    return old.scheme == "http" and ports == [80, 443]


def _target(url: str, answer: Answer) -> str:
    location = answer.headers.get("location", "")
    if not location:
        raise RedirectError(f"{answer.status} without a Location: the server says it moved, and not where")
    try:
        target = urljoin(url, location)
        old, new = urlsplit(url), urlsplit(target)
        is_address = target.isascii() and new.port != 0  # which raises ValueError if it is no number
    except ValueError:
        is_address = False
    if not is_address:
        raise RedirectError(f"{answer.status} to {location!r}, which is no address")
    if new.scheme not in _PORTS or not new.hostname or (old.scheme == "https" and new.scheme == "http"):
        raise RedirectError(f"{answer.status} to {target}, where no request of ours may go")
    return target


def below(url: str, path: str) -> str:
    """The address of a path below a base URL, whose query stays at the end."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path}").geturl()


def fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> bytes:
    """The body that a GET of a server gives, for checks outside an event loop.

    Raises:
        urllib.error.HTTPError: another status than 2xx.
        OSError, http.client.HTTPException, ValueError: no reply.
    """
    request = urllib.request.Request(url, headers=named(headers))  # noqa: S310 given by the user
    with _OPENER.open(request, timeout=timeout_s) as reply:
        body: bytes = reply.read()
    return body


class _KeylessRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if request is not None and not keeps_headers(req.full_url, newurl):
            request.headers = {"User-agent": USER_AGENT}
        return request


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _KeylessRedirects)
