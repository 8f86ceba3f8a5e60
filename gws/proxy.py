"""Opening a client's connection through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) or SOCKS5 (RFC 1928, RFC 1929).

Knows which proxy the environment names and how to ask it for a tunnel; not what goes through the tunnel, TLS included.
Stands between `sockethelper`, whose sockets it opens and reads to the byte, and `client`.

    proxy_for(url) -> str | None            the URL of the proxy to use for a ws:// or wss:// URL
    open_tunnel(proxy, host, port) -> sock  what is written to it, host:port reads
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import _socket

from gws.errors import HandshakeError
from gws.sockethelper import close, connect, deadline, netloc, readfunc, resolve, writefunc

__all__ = ["open_tunnel", "proxy_for"]

_MAX_HEAD = 8192  # bytes in the head of an HTTP proxy's answer
_MAX_REASON = 100  # characters of its reason that an error repeats
_PORTS = {"ws": 80, "wss": 443, "http": 80, "socks5h": 1080, "socks5": 1080}

# "... encouraged to use a SOCKS5 proxy for WebSocket connections, if available, or failing that, to prefer the proxy
# configured for HTTPS connections over the proxy configured for HTTP connections" (RFC 6455 section 4.1).  One that is
# meant for WebSockets goes before these.
_PREFERENCE = {"ws": ("ws", "socks", "https", "http"), "wss": ("wss", "socks", "https")}

_Read = Callable[..., bytes]
_Write = Callable[[bytes], None]


def proxy_for(url: str) -> str | None:
    """Name the proxy that the environment wants for a ws:// or wss:// URL, or None.

    As the `websockets` package has it: `ws_proxy`, else `socks_proxy`, `https_proxy`, `http_proxy`; for wss:
    `wss_proxy`, else `socks_proxy`, `https_proxy`; none for the hosts in `no_proxy`.  Without such variables, what
    the system is set to, if it has such a setting (see urllib.request.getproxies).
    """
    scheme, host, port = _split(url)
    if scheme not in _PREFERENCE:
        raise ValueError(f"expected a ws:// or wss:// URL, not {scheme}://")
    if proxy_bypass(f"{host}:{port}"):
        return None
    proxies = getproxies()
    for name in _PREFERENCE[scheme]:
        if name in proxies:
            return _socks_url(proxies[name]) if name == "socks" else proxies[name]
    return None


def _socks_url(url: str) -> str:
    """Say that it is a SOCKS proxy: a system's setting comes as http://, and a variable may hold host:port alone."""
    scheme, _, rest = url.rpartition("://")
    return f"socks5h://{rest}" if scheme in ("", "http") else url


def open_tunnel(proxy: str, host: str, port: int, timeout: float | None = None) -> _socket.socket:
    """Connect to `host` and `port` through the proxy with that URL.   Blocks.

    The URL is `http://`, `socks5h://`, or, to look `host` up on this side, `socks5://`; a user and password in it are
    shown to the proxy.  HandshakeError if the proxy refuses (`status` is its HTTP status; 0 for SOCKS), OSError if
    there is no way to it, TimeoutError after `timeout` seconds in all, ImportError if SOCKS is not installed.
    """
    through, host = _Proxy.of(proxy), _host_name(host)
    ask = _TUNNELS[through.scheme]
    if ask is _socks5:
        _socksio()
    with deadline(timeout, f"{netloc(host, port)} through the proxy {through}"):
        sock = _reach(through)
        try:
            ask(readfunc(sock), writefunc(sock), through, host, port)
        except BaseException as error:
            close(sock)
            if isinstance(error, EOFError):
                raise HandshakeError(0, f"the proxy {through} closed the connection instead of answering") from None
            raise
    return sock


class _Proxy(NamedTuple):
    """Where a proxy is, and who we are to it: (user, password), or None."""

    scheme: str
    host: str
    port: int
    user: tuple[str, str] | None

    def __str__(self) -> str:
        return netloc(self.host, self.port)

    @classmethod
    def of(cls, url: str) -> _Proxy:
        """Read a proxy's URL; without a scheme it is http.   ValueError, which does not show the password."""
        url = url if "://" in url else f"http://{url}"
        scheme, host, port = _split(url)
        if scheme not in _TUNNELS:
            raise ValueError(f"a proxy is {'://, '.join(_TUNNELS)}://, not {scheme}://")
        parts = urlsplit(url)
        user = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        return cls(scheme, host, port, user)


def _split(url: str) -> tuple[str, str, int]:
    """Take scheme, host and port from a URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:  # whose text may quote a password, or half of one that has a slash in it
        raise ValueError("a URL is not sound: its host, or its port (0 to 65535)") from None
    if not parts.hostname:
        raise ValueError("a URL has no host")
    return parts.scheme, parts.hostname, port


def _host_name(host: str) -> str:
    """Write a host in ASCII.   ValueError for what would be more than one word in a request."""
    name = host if host.isascii() else host.encode("idna").decode()
    if not re.fullmatch(r"[\w.:%~-]{1,255}", name, re.ASCII):
        raise ValueError(f"not the name of a host: {host!r}")
    return name


def _reach(proxy: _Proxy) -> _socket.socket:
    try:
        return connect(proxy.host, proxy.port)
    except OSError as error:
        if isinstance(error, TimeoutError) or error.strerror is None:  # the caller's own, maybe
            raise
        raise OSError(error.errno, f"no way to the proxy: {error.strerror}") from None


def _http(read: _Read, write: _Write, proxy: _Proxy, host: str, port: int) -> None:
    """Ask an HTTP proxy for a tunnel.   Blocks."""
    target = netloc(host, port)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user is not None:
        lines.append(f"Proxy-Authorization: Basic {_basic(*proxy.user)}")
    write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    status, reason, headers = _parse_head(_read_head(read), proxy)
    # "Any 2xx (Successful) response indicates that the sender (and all inbound proxies) will switch to tunnel mode
    # immediately after the response header section"
    if not 200 <= status < 300:
        raise HandshakeError(status, f"{reason}: the proxy {proxy} opened no tunnel to {target}", headers, b"")


def _basic(user: str, password: str) -> str:
    if ":" in user:
        raise ValueError("a user name with a colon cannot be shown to an HTTP proxy (RFC 7617 section 2)")
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _read_head(read: _Read) -> bytes:
    """Read an HTTP head through its blank line, byte by byte: what follows is the stream's already.   Blocks."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        if len(head) == _MAX_HEAD:
            raise HandshakeError(0, f"the head of the proxy's answer is longer than {_MAX_HEAD} bytes")
        head += read(1)
    return bytes(head)


def _parse_head(head: bytes, proxy: _Proxy) -> tuple[int, str, list[tuple[str, str]]]:
    """Take what counts of an answer: status, reason, headers.  Many proxies speak HTTP/1.0, which `http` refuses."""
    first, *lines = head[:-4].decode("ascii", "backslashreplace").split("\r\n")
    match = re.fullmatch(r"HTTP/1\.[01] (\d{3})(?: ([\t -~]*))?", first)
    if match is None:
        raise HandshakeError(0, f"the proxy {proxy} does not answer in HTTP")
    fields = [line.partition(":") for line in lines]
    # Proxy-Authenticate and the like, and nothing else: a Location would be followed as if the server had sent it.
    headers = [(name, value.strip()) for name, _, value in fields if name.lower().startswith("proxy-")]
    return int(match[1]), (match[2] or "")[:_MAX_REASON], headers


def _socksio() -> Any:
    try:
        import socksio
    except ImportError:
        raise ImportError("a SOCKS proxy needs the socksio package: pip install gevent-gws[socks]") from None
    return socksio


def _socks5(read: _Read, write: _Write, proxy: _Proxy, host: str, port: int) -> None:
    """Ask a SOCKS5 proxy for a tunnel.   Blocks."""
    socks = _socksio()
    if proxy.scheme == "socks5":
        host = resolve(host, port)[0][1][0]
    talk = socks.SOCKS5Connection()
    try:
        _log_in(socks, talk, read, write, proxy)
        talk.send(socks.SOCKS5CommandRequest.from_address(socks.SOCKS5Command.CONNECT, (host, port)))
        write(talk.data_to_send())
        code = talk.receive_data(_read_reply(read)).reply_code
    except socks.SOCKSError:
        raise HandshakeError(0, f"the proxy {proxy} does not answer in SOCKS5") from None
    if code is not socks.SOCKS5ReplyCode.SUCCEEDED:
        reason = code.name.lower().replace("_", " ")
        raise HandshakeError(0, f"{reason}: the proxy {proxy} opened no tunnel to {netloc(host, port)}")


def _log_in(socks: Any, talk: Any, read: _Read, write: _Write, proxy: _Proxy) -> None:
    """Agree on a method (RFC 1928 section 3), and show who we are if the proxy wants that (RFC 1929).   Blocks."""
    methods = [socks.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.user is not None:
        methods.append(socks.SOCKS5AuthMethod.USERNAME_PASSWORD)
    talk.send(socks.SOCKS5AuthMethodsRequest(methods))
    write(talk.data_to_send())
    method = talk.receive_data(read(2)).method
    if method not in methods:
        raise HandshakeError(0, f"the proxy {proxy} wants {'another' if proxy.user else 'a'} way to log in")
    if method is methods[0]:
        return
    user, password = (each.encode() for each in proxy.user or ())
    if max(len(user), len(password)) > 255:
        raise ValueError("a user name or password is longer than the 255 bytes that SOCKS5 takes (RFC 1929 section 2)")
    talk.send(socks.SOCKS5UsernamePasswordRequest(user, password))
    write(talk.data_to_send())
    if not talk.receive_data(read(2)).success:
        raise HandshakeError(0, f"the proxy {proxy} does not take this user name and password")


def _read_reply(read: _Read) -> bytes:
    """Read the reply to a request, to the byte: its length hangs on the kind of address in it (RFC 1928 section 6)."""
    head = read(5)  # version, reply, reserved, kind of address, and the address's first byte
    left = {1: 3, 3: head[4], 4: 15}.get(head[3])
    return head if left is None else head + read(left + 2)


_TUNNELS = {"http": _http, "socks5h": _socks5, "socks5": _socks5}
