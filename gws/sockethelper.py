"""Opening sockets: listening, connecting within a deadline, TLS, Unix sockets; skynet's `readfunc` and `writefunc`.

Does not know what is said over them.  Sockets are raw and non-blocking (`_socket.socket`), so that nothing here depends
on whether the process is monkey-patched and a connection costs no gevent socket; whoever must wait for one parks its
greenlet on a watcher.  What fails is an OSError that names the address.

    listen(address, port) -> listener       or a Unix one: listen(path=...)
    connect(address, port) -> sock          connect_unix(path) -> sock
    start_tls(sock, context) -> sock        server_context(certfile, keyfile), client_context()
    readfunc(sock) -> read(size)            writefunc(sock) -> write(data)
    close(sock)                             any of these, whoever waits for it
    unread(sock) -> bytes that the kernel holds for us
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import ssl
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import _socket
from gevent import Timeout, get_hub, sleep
from gevent import ssl as gevent_ssl
from gevent.hub import Waiter

__all__ = [
    "client_context",
    "close",
    "connect",
    "connect_unix",
    "deadline",
    "listen",
    "netloc",
    "readfunc",
    "resolve",
    "server_context",
    "start_tls",
    "unread",
    "writefunc",
]

_READ, _WRITE = 1, 2  # libev's EV_READ and EV_WRITE; libuv's loop takes the same
_UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK}
_CHUNK = 64 * 1024  # bytes that one recv may allocate, however many are asked for
_RETRY = 0.01  # seconds until a full backlog is tried again

_T = TypeVar("_T")
_Socket = TypeVar("_Socket", bound=_socket.socket)
_File = str | os.PathLike[str]

_waits: dict[int, list[tuple[Any, Any]]] = {}  # descriptor -> (watcher, waiter) of each greenlet that waits for it here


def listen(
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    path: _File | None = None,
    backlog: int = 4096,
    reuse_port: bool = False,
    nodelay: bool = True,
) -> _socket.socket:
    """Open a listening socket: on TCP, or at `path`, a Unix socket.   Blocks if `address` is a name.

    An empty address is every IPv4 interface, `"::"` every interface; port 0 is any that is free.  What is accepted
    inherits `nodelay` (TCP_NODELAY), at no cost.  At `path`, the file of a server that is gone is replaced, that of a
    living one is "Address already in use"; `close` removes it.
    """
    if path is not None:
        return _listen_unix(os.fspath(path), backlog)
    if reuse_port and not hasattr(_socket, "SO_REUSEPORT"):
        raise ValueError("this system has no SO_REUSEPORT")
    found = resolve(address or None, port, _socket.AI_PASSIVE)
    family, sockaddr = min(found, key=lambda each: each[0] != _socket.AF_INET)
    with _naming(netloc(address, port)), _opening(_new(family)) as sock:
        if os.name == "posix":  # elsewhere it lets two servers have one port
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, nodelay)
        sock.bind(sockaddr)
        sock.listen(backlog)
    return sock


class _UnixListener(_socket.socket):
    """A listening Unix socket, and its file: the path, the process that made it, what it was then."""

    file: tuple[str, int, os.stat_result] | None = None

    def remove_file(self) -> None:
        """Remove the file, unless it is a successor's by now, or we are but a child of the process that made it."""
        if self.file is None:
            return
        path, process, made = self.file
        with contextlib.suppress(OSError):
            if process == os.getpid() and os.path.samestat(os.stat(path), made):
                os.unlink(path)


def _listen_unix(path: str, backlog: int) -> _UnixListener:
    with _naming(path), _opening(_UnixListener(_socket.AF_UNIX, _socket.SOCK_STREAM)) as sock:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(path)
        if not path.startswith("\0"):  # else the name is abstract, and no file's (unix(7))
            sock.file = os.path.abspath(path), os.getpid(), os.stat(path)
        sock.listen(backlog)
    return sock


def _is_stale(path: str) -> bool:
    """Tell whether `path` is the socket file of a server that is gone."""
    if not Path(path).is_socket():
        return False
    probe = _new(_socket.AF_UNIX)
    answer = probe.connect_ex(path)
    probe.close()
    return answer == errno.ECONNREFUSED


def connect(address: str, port: int, timeout: float | None = None, *, nodelay: bool = True) -> _socket.socket:
    """Open a TCP connection; of a name, each address is tried in turn.   Blocks.

    TimeoutError after `timeout` seconds in all, looking the name up included.
    """
    where = netloc(address, port)
    failures = []
    with deadline(timeout, where):
        for family, sockaddr in resolve(address, port):
            got = _try(family, sockaddr, nodelay)
            if not isinstance(got, int):
                return got
            exact = netloc(*sockaddr[:2])
            failures.append((got, f"{os.strerror(got)}: {where if exact == where else f'{where} ({exact})'}"))
    raise OSError(failures[-1][0], "; ".join(text for _, text in failures))


def connect_unix(path: _File, timeout: float | None = None) -> _socket.socket:
    """Open a connection to the Unix socket at `path`.   Blocks while the server's backlog is full."""
    path = os.fspath(path)
    with deadline(timeout, path), _opening(_new(_socket.AF_UNIX)) as sock:
        while not _reached(sock, path):
            sleep(_RETRY)
    return sock


def resolve(address: str | None, port: int, flags: int = 0) -> list[tuple[int, Any]]:
    """Look up (family, socket address) of a host, in the order to try them.   Blocks for a name (gevent's resolver).

    `flags` are getaddrinfo's.  socket.gaierror, an OSError, if there is no such host.
    """
    if not 0 <= port <= 65535:  # the C library would take it modulo 65536
        raise ValueError(f"a port is 0 to 65535, not {port}")

    def ask(getaddrinfo: Any, flags: int) -> list[tuple[int, Any]]:
        found = getaddrinfo(address, port, 0, _socket.SOCK_STREAM, 0, flags)
        return [(family, sockaddr) for family, _, _, _, sockaddr in found]

    try:
        return ask(_socket.getaddrinfo, flags | _socket.AI_NUMERICHOST)  # asks nobody: it needs no thread
    except _socket.gaierror:
        pass
    try:
        return ask(get_hub().resolver.getaddrinfo, flags)
    except _socket.gaierror as error:
        raise _socket.gaierror(error.errno, f"{error.strerror}: {address}") from None


@contextlib.contextmanager
def deadline(seconds: float | None, where: str) -> Iterator[None]:
    """Raise TimeoutError out of the block once it has taken `seconds` (None: it may take as long as it likes)."""
    with contextlib.closing(Timeout(seconds)) as timer:
        timer.start()
        try:
            yield
        except Timeout as error:
            if error is not timer:
                raise
            raise TimeoutError(errno.ETIMEDOUT, f"timed out after {seconds} s: {where}") from None


def netloc(host: str, port: int) -> str:
    """Write `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _try(family: int, sockaddr: Any, nodelay: bool) -> _socket.socket | int:
    """Connect to one address: the socket, or else the errno.   Blocks.

    No OSError: one that a Timeout of the caller's throws in here must not pass for a failure of this address.
    """
    try:
        sock = _new(family)
    except OSError as error:  # a kernel without IPv6, say
        return error.errno or errno.EAFNOSUPPORT
    with _opening(sock):
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, nodelay)
        while (failure := _progress(sock, sockaddr)) in _UNDER_WAY:
            _wait(sock, _WRITE)
        if not failure:
            return sock
    close(sock)
    return failure


def _progress(sock: _socket.socket, sockaddr: Any) -> int:
    """Begin to connect, or tell how far it is: 0 when it is done."""
    error = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) or sock.connect_ex(sockaddr)
    return 0 if error == errno.EISCONN else error


def _reached(sock: _socket.socket, path: str) -> bool:
    """Connect to `path`, or tell that its backlog is full: EAGAIN is not "in progress" here, and no event follows."""
    with _naming(path):
        error = sock.connect_ex(path)
        if error not in (0, errno.EAGAIN):
            raise OSError(error, os.strerror(error))
    return not error


def _new(family: int) -> _socket.socket:
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def _opening(sock: _Socket) -> Iterator[_Socket]:
    """Close the socket if the block fails."""
    try:
        yield sock
    except BaseException:
        close(sock)
        raise


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say `where` in the block's OSError.  It must not wait: what is thrown into it then is not ours to change."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EINVAL, f"{error.strerror or error}: {where}") from None


def server_context(certfile: _File, keyfile: _File | None = None) -> ssl.SSLContext:
    """Make a server's TLS context from PEM files; without `keyfile`, the key is in `certfile`.

    A key that wants a password needs a context of the caller's own.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with _reading(certfile, keyfile):
        context.load_cert_chain(certfile, keyfile, password="")  # None would ask at the terminal, and hang a server
    return context


def client_context(cafile: _File | None = None) -> ssl.SSLContext:
    """Make a client's TLS context.  It verifies: by the authorities in `cafile`, or else by the system's."""
    with _reading(cafile):
        return ssl.create_default_context(cafile=cafile)


@contextlib.contextmanager
def _reading(*files: _File | None) -> Iterator[None]:
    """Name the files in what goes wrong: ssl does not."""
    names = [file for file in files if file is not None]
    for name in names:
        with open(name, "rb"):
            pass
    try:
        yield
    except ssl.SSLError as error:
        raise ssl.SSLError(error.errno, f"{error.strerror}: {', '.join(map(str, names))}") from None


def start_tls(
    sock: _socket.socket,
    context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> ssl.SSLSocket:
    """Do the TLS handshake on a connected socket, and give the non-blocking one that takes its place.   Blocks.

    `server_hostname` is what the certificate must be for, and goes along (SNI, RFC 6066 section 3).  Whatever goes
    wrong, a Timeout of the caller's included, the descriptor is closed.  ssl.SSLError, an OSError, if TLS fails.
    """
    with _opening(sock):
        sock.setblocking(False)
        # What is wrong is told here, not by ssl, which has taken the descriptor by then and would leave it open.
        sock.getpeername()
        _check_name(server_hostname)
        tls = _wrap(sock, context, server_side, server_hostname)
    with _opening(tls):
        _when_ready(tls, _READ, tls.do_handshake)
    return tls


def _check_name(host: str | None) -> None:
    if host is None:
        return
    if not host or host[0] == "." or "\0" in host:
        raise ValueError(f"not the name of a host: {host!r}")
    host.encode("idna")


def _wrap(sock: Any, context: Any, server_side: bool, server_hostname: str | None) -> ssl.SSLSocket:
    options: Any = {"server_hostname": server_hostname, "do_handshake_on_connect": False}
    if isinstance(context, ssl.SSLContext) or not isinstance(context, gevent_ssl.orig_SSLContext):  # type: ignore[attr-defined]
        return context.wrap_socket(sock, server_side, **options)
    # It is from before monkey-patching: its own wrap_socket() relies on the ssl.SSLSocket that was there then.
    return gevent_ssl.SSLSocket(sock, server_side=server_side, _context=context, **options)


def readfunc(sock: _socket.socket) -> Callable[..., bytes]:
    """Give a `read(size=None)`, which Blocks: exactly `size` bytes, or without a size whatever comes.

    EOFError if the peer closes before that.  It takes no more from the socket than was asked for, and a Timeout loses
    nothing: the next read begins with what had come.   (skynet: sockethelper.readfunc)
    """
    held = bytearray()

    def receive(size: int) -> bytes:
        data = _when_ready(sock, _READ, sock.recv, min(size, _CHUNK))
        if not data:
            raise EOFError("the peer closed the connection")
        return data

    def read(size: int | None = None) -> bytes:
        if size is None:
            size = len(held)
            if not held:
                return receive(_CHUNK)
        while len(held) < size:
            held.extend(receive(size - len(held)))
        data = bytes(held[:size])
        del held[:size]
        return data

    return read


def writefunc(sock: _socket.socket) -> Callable[[bytes], None]:
    """Give a `write(data)`, which Blocks until the kernel has taken all of it.

    A Timeout leaves the data cut off: close then.   (skynet: sockethelper.writefunc)
    """

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            taken = _when_ready(sock, _WRITE, sock.send, rest)
            if not taken:  # so gevent's TLS socket says what ssl's own raises
                _wait(sock, _WRITE)
            rest = rest[taken:]

    return write


def unread(sock: Any) -> int:
    """Return how many bytes the kernel holds that nobody has read; 0 for a socket, or a stream, that is closed."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
    except (OSError, ValueError):
        return 0
    return int(count)


def close(sock: _socket.socket) -> None:
    """Close a socket, if it is not closed already; whoever waits for it here gets an OSError.

    TLS says close_notify if that needs no waiting (RFC 8446 section 6.1).  A Unix listener's file is removed.
    """
    if sock.fileno() < 0:
        return
    if isinstance(sock, _UnixListener):
        sock.remove_file()
    if hasattr(sock, "unwrap"):
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()
    fd = sock.detach()
    sock.close()  # nothing but the SSL object is left to let go of
    _close_descriptor(fd)


def _close_descriptor(fd: int) -> None:
    """Stop the watchers, then close: libev aborts the process if a descriptor is closed under a watcher."""
    loop = get_hub().loop
    for watcher, waiter in _waits.pop(fd, ()):
        watcher.close()
        loop.run_callback(waiter.throw, OSError(errno.EBADF, "the socket was closed by another greenlet"))
    if not loop.closing_fd(fd):
        _socket.close(fd)
        return
    # Somebody else watches it: the loop tells them first, as it does for gevent's own sockets.
    check, wake = loop.check(), loop.timer(0)

    def told() -> None:
        for watcher in (check, wake):
            watcher.close()
        _socket.close(fd)

    check.start(told)
    wake.start(int)  # else a loop that has nothing to do would sleep before the check


def _when_ready(sock: _socket.socket, events: int, operation: Callable[..., _T], *args: Any) -> _T:
    """Repeat `operation` until it need not wait: for `events`, or for what TLS wants instead.   Blocks."""
    while True:
        try:
            return operation(*args)
        except BlockingIOError:
            wanted = events
        except ssl.SSLWantReadError:
            wanted = _READ
        except ssl.SSLWantWriteError:
            wanted = _WRITE
        _wait(sock, wanted)


def _wait(sock: _socket.socket, events: int) -> None:
    """Wait until `sock` is readable or writable; an OSError if it is closed meanwhile.   Blocks."""
    hub, fd = get_hub(), sock.fileno()
    watcher = hub.loop.io(fd, events)
    waiter: Any = Waiter(hub)
    waits = _waits.setdefault(fd, [])
    waits.append((watcher, waiter))
    watcher.start(waiter.switch, None)
    try:
        waiter.get()
    finally:
        watcher.close()
        waits.remove((watcher, waiter))
        if not waits and _waits.get(fd) is waits:  # else `close` took it, and the number may be somebody else's now
            del _waits[fd]
