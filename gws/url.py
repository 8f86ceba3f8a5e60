"""ws:// and wss:// URLs (RFC 6455 section 3), and what a redirect makes of one.

Knows where a client is to go, not how it gets there.
"""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from gws.errors import HandshakeError

__all__ = ["Target", "redirected"]

_SCHEMES = {"ws": False, "wss": True, "http": False, "https": True}
_PORTS = {False: 80, True: 443}
_BOUND = frozenset({"authorization", "cookie", "host", "proxy-authorization"})  # to the origin that they are meant for

Pairs = list[tuple[str, str]]


class Target(NamedTuple):
    """Where a client connects to; `path` is the resource name, with its query; `user` is "name:password" or none."""

    secure: bool
    host: str
    port: int
    path: str = "/"
    user: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.secure] else f":{self.port}"
        return f"{'wss' if self.secure else 'ws'}://{host}{port}{self.path}"

    @classmethod
    def of(cls, address: str, port: int | None = None, *, secure: bool = False) -> Target:
        """Return the target for a URL, or for a host and port (`secure` or not); ValueError for what is neither."""
        if "://" not in address:
            if port is None:
                raise ValueError(f"expected a ws:// or wss:// URL, or a host and a port, not {address!r}")
            return cls(secure, address.strip("[]"), port)
        if port is not None:
            raise ValueError("a URL holds its port itself")
        return cls._of_url(urlsplit(address))

    @classmethod
    def _of_url(cls, url: SplitResult) -> Target:
        if url.scheme not in ("ws", "wss"):
            raise ValueError(f"expected a ws:// or wss:// URL, not {url.geturl()!r}")
        # "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be used"  (section 3)
        if url.fragment:
            raise ValueError(f"a WebSocket URL has no fragment (RFC 6455 section 3): {url.geturl()!r}")
        if not url.hostname:
            raise ValueError(f"there is no host in {url.geturl()!r}")
        secure = _SCHEMES[url.scheme]
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        user = "" if url.username is None else f"{unquote(url.username)}:{unquote(url.password or '')}"
        return cls(secure, url.hostname, url.port or _PORTS[secure], path, user)

    @property
    def origin(self) -> tuple[bool, str, int]:
        """Return what must be the same for secrets to be shown again (RFC 6454)."""
        return self.secure, self.host.lower(), self.port

    @property
    def credentials(self) -> Pairs:
        """Return the header that tells who we are, if the URL does (RFC 7617)."""
        if not self.user:
            return []
        return [("Authorization", "Basic " + base64.b64encode(self.user.encode()).decode())]


def redirected(target: Target, location: str, headers: Pairs) -> tuple[Target, Pairs]:
    """Return where a redirect leads, and the headers that may go there.

    Never from wss to ws, and no credentials across origins: HandshakeError, and silence.
    """
    try:
        url = urlsplit(urljoin(str(target).replace("ws", "http", 1), location))
        if url.scheme not in _SCHEMES:
            raise HandshakeError(0, f"a redirect leads to {url.scheme}://, which is no WebSocket")
        new = Target.of(url._replace(scheme="wss" if _SCHEMES[url.scheme] else "ws", fragment="").geturl())
    except ValueError as error:
        raise HandshakeError(0, f"a redirect leads nowhere: {error}") from None
    if target.secure and not new.secure:
        raise HandshakeError(0, f"a redirect leads from wss to ws: {new}")
    if new.origin == target.origin:
        return (new if new.user else new._replace(user=target.user)), headers
    return new, [(name, value) for name, value in headers if name.lower() not in _BOUND]
