"""A look inside, as skynet's debug console gives it: for `nc`, and as a live page on http:// of the same port.

    console.start(8000)         then: nc 127.0.0.1 8000, and type help; or open http://127.0.0.1:8000

It listens on loopback, or a Unix socket of its owner's; anywhere else it wants a token.   The first bytes decide: who
sends the beginning of an HTTP request gets the page, who sends anything else, whenever that is, is answered in text.
Does not know what there is to see (`overview`), nor the commands (`commands`).
Contract with `opening` below: it shakes hands on a stream of which the first bytes were read already.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from itertools import chain
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from greenlet import getcurrent, greenlet

from gws import http, lines, overview, sockethelper
from gws.commands import Session
from gws.errors import HandshakeError
from gws.history import History, Point
from gws.http import Request
from gws.message import Message
from gws.server import Server
from gws.stream import Stream
from gws.websocket import WebSocket, broadcast

__all__ = ["Console", "start"]

_MOST = 32  # pages, and as many who ask in text; and as many strangers
_MESSAGE = 4096  # bytes in a page's message
_PATIENCE = 10.0  # seconds for a page's token
_PENALTY = 1.0  # seconds that a wrong token costs
_PAUSE = 0.001  # seconds between two lines of one who sends without pause
_SLOW = 256 * 1024  # bytes pending to somebody for whom no trace is kept any more

_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def start(
    port: int = 8000,
    address: str = "127.0.0.1",
    *,
    path: str | os.PathLike[str] | None = None,
    token: str | None = None,
    **options: Any,
) -> Console:
    """Open a console and return it; its `address` tells where it is, `stop()` closes it.   Blocks for a name.

    `path` is a Unix socket's, which its owner alone may open.   With a `token`, whoever connects has to say it.
    `options` are those of `listen()`; with `certfile`, say, it is https:// and TLS for all.
    ValueError if it would listen beyond loopback without a token; OSError if it cannot listen there.
    """
    console = Console(token)
    console.start(address, port, path=None if path is None else os.fspath(path), **options)
    return console


class Console(Server):
    """The port, and those who look."""

    def __init__(self, token: str | None = None):
        super().__init__()
        if token is not None and not (isinstance(token, str) and token.strip() == token != ""):
            raise ValueError("a token is a str that neither is empty nor begins or ends with a space")
        self._token = token
        self._loopback = True
        self._turn = BoundedSemaphore(1)
        self._strangers: dict[greenlet, Stream] = {}  # who has not asked anything yet, or has no token; the first first
        self._begun: dict[Stream, bytes] = {}  # HTTP streams -> what was read of the head
        self._sessions: dict[Session, tuple[Stream, Callable[[list[str]], None]]] = {}  # who looks -> who takes traces
        self._talking: dict[greenlet, Stream] = {}  # who asks in text, the one silent for the longest first
        self._words: dict[WebSocket, tuple[str, str]] = {}  # pages -> the words that services, connections must have
        self._streams: set[Stream] = set()
        self._gone = (0, 0, 0, 0)  # what has gone over those of our streams that are closed
        self._history = History(self, self._own)
        self._html = files("gws").joinpath("console.html").read_text(encoding="utf-8")
        self.on("handshake", lambda fd, request: self._judge(request))
        self.on("http", self._page)
        self.on("connection", self._converse_with_page)
        self.on("disconnect", lambda fd, code, reason: self._close(fd.stream))

    def __repr__(self) -> str:
        return f"<Console {f'on {self.address}' if self._listener else 'closed'}, {len(self._sessions)} sessions>"

    def start(self, address: str = "127.0.0.1", port: int = 8000, *, path: str | None = None, **options: Any) -> None:
        """Open it; see the room's start().   Blocks while a name is resolved."""
        self._loopback = path is not None or _is_loopback(address, port)
        if not self._loopback and self._token is None:
            raise ValueError(f"{address or 'every address'} is not this machine alone: a console there needs a token")
        limits = {"maxclient": 2 * _MOST, "max_message": _MESSAGE, "max_pending": 1024 * 1024, "compression": None}
        mask = os.umask(0o177) if path is not None else None  # nobody else may open the file, from the beginning on
        try:
            super().start(address, port, path=path, **{**limits, **options})
        finally:
            if mask is not None:
                os.umask(mask)
        self._history.start(self._flush, self._show)

    def stop(self, code: int = 1001, reason: str = "", timeout: float | None = None) -> list[WebSocket]:
        """Close the port, and whatever is open.   Blocks."""
        self._history.stop()
        return super().stop(code, reason, timeout)

    # ---------------------------------------------------------------------------------------- who comes in, and how

    def _shake_hands(self, sock: Any, addr: Any) -> WebSocket | None:
        """Let the first bytes decide, and answer in text; or go on with the handshake.   Blocks."""
        me, stream = getcurrent(), None
        try:
            with gevent.Timeout(self.options.handshake_timeout, TimeoutError("TLS took too long")):
                stream = self._stream(sock)
            self._streams.add(stream)
            self._make_room(me, stream)
            said = lines.first_words(stream)
            if not lines.begins_request(said):
                self._talk(stream, said)
                return None
            self._begun[stream] = said
            fd = super()._shake_hands(stream, addr)
            stream = None if fd is not None else stream
            return fd
        except (EOFError, OSError):
            return None
        finally:
            if stream is not None:
                self._strangers.pop(me, None)
                self._close(stream)

    def _make_room(self, me: greenlet, stream: Stream) -> None:
        """Send home who has been silent for the longest, if there are too many of them."""
        self._strangers[me] = stream
        if len(self._strangers) > _MOST:
            gevent.kill(next(iter(self._strangers)))

    def _stream(self, sock: Any) -> Stream:
        return sock if isinstance(sock, Stream) else super()._stream(sock)

    def _head(self, stream: Stream) -> bytes:
        return self._begun.pop(stream, b"") + super()._head(stream)

    def _close(self, stream: Stream) -> None:
        stream.close()
        self._begun.pop(stream, None)
        if stream in self._streams:
            self._streams.discard(stream)
            self._gone = _sum([self._gone, _traffic(stream)])

    def _own(self) -> tuple[int, int, int, int]:
        """Return what has gone over our own connections, which are not to be counted."""
        return _sum([self._gone, *map(_traffic, self._streams)])

    def _is_wrong(self, token: str) -> bool:
        """Judge a token, in a time that does not tell how wrong it is; a wrong one costs a second.   Blocks."""
        if self._token is None or hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            return False
        gevent.sleep(_PENALTY)
        return True

    # ------------------------------------------------------------------------------------------------------ in text

    def _talk(self, stream: Stream, said: bytes) -> None:
        """Answer line by line.   Blocks."""
        questions = lines.read(stream, said)
        last_words = ""
        try:
            first = next(questions, "")
            if self._token is None:
                questions = chain([first], questions)
            elif self._is_wrong(_token_of(first)):
                raise ValueError("say your token first, and the right one: token SECRET")
            self._answer_lines(stream, questions)
        except ValueError as error:
            last_words = str(error)
        lines.part(stream, last_words)

    def _answer_lines(self, stream: Stream, questions: Iterator[str]) -> None:
        """Answer line by line; if too many do so, the one silent for the longest is sent home.   Blocks."""
        me, session = getcurrent(), Session(self, self._turn)
        self._strangers.pop(me, None)
        self._sessions[session] = stream, partial(lines.post, stream)
        try:
            for line in questions:
                self._talking.pop(me, None)
                self._talking[me] = stream
                if len(self._talking) > _MOST:
                    gevent.kill(next(iter(self._talking)))
                if answer := session.do(line):
                    lines.post(stream, [*answer, ""])
                    stream.drain()
                gevent.sleep(_PAUSE)
        finally:
            session.leave()
            self._talking.pop(me, None)
            del self._sessions[session]

    # --------------------------------------------------------------------------------------------------- as a page

    def _judge(self, request: Request) -> None:
        """Refuse a name of ours that somebody else's page has made up: DNS rebinding needs one."""
        if self._loopback and not _names_loopback(request.headers["Host"]):
            raise HandshakeError(403, "this console is for localhost only: its Host must say so")
        if request.path != "/":
            raise HandshakeError(404, "there is nothing here")

    def _page(self, request: Request) -> Any:
        self._judge(request)
        if request.method not in ("GET", "HEAD"):
            return 405, (("Allow", "GET, HEAD"),), "405 Method Not Allowed\n"
        nonce = secrets.token_urlsafe()
        policy = ("Content-Security-Policy", _POLICY.format(nonce))
        return http.Response(200, (*_HEADERS, policy), self._html.replace("NONCE", nonce).encode())

    def _converse_with_page(self, fd: WebSocket, addr: Any) -> None:
        """Show, and do what the page says.   Blocks."""
        session = Session(self, self._turn)
        try:
            if self._token is not None and not self._let_in(fd):
                return
            self._strangers.pop(getcurrent(), None)
            if len(self._words) >= _MOST:
                fd.close(1013, "the console is full")
                return
            fd.write(json.dumps({"history": self._history.points, "host": _title()}, default=list))
            self._sessions[session], self._words[fd] = (fd.stream, partial(_pass_on, fd)), ("", "")
            self._show_to([fd], ("", ""))
            for message in fd:
                self._heed(fd, session, message)
                gevent.sleep(_PAUSE)
        finally:
            session.leave()
            self._strangers.pop(getcurrent(), None)
            self._sessions.pop(session, None)
            self._words.pop(fd, None)

    def _let_in(self, fd: WebSocket) -> bool:
        """Ask for the token.   Blocks."""
        fd.write('{"wanted": "token"}')
        token = ""
        with gevent.Timeout(_PATIENCE, False):  # type: ignore[arg-type]  # False: in silence
            token = str(_parse(fd.read()).get("token", ""))
        if self._is_wrong(token):
            fd.close(1008, "that is not the token")
            return False
        return True

    def _heed(self, fd: WebSocket, session: Session, message: Message) -> None:
        """Do what a page's message says.   Blocks."""
        said = _parse(message)
        if "find" in said:
            words = said["find"] if isinstance(said["find"], list) else []
            services, connections, *_ = (*map(str, words), "", "")
            self._words[fd] = services, connections
            self._show_to([fd], self._words[fd])
        elif "do" in said:
            line = str(said["do"])
            fd.write(json.dumps({"to": line, "answer": session.do(line)}))
        else:
            fd.close(1008, "a page asks to find or to do something")

    def _show(self, point: Point) -> None:
        """Show the latest to all pages, alike to those that want alike.   Blocks."""
        broadcast(self._words, json.dumps({"point": point}))
        for words in set(self._words.values()):
            self._show_to([fd for fd, wanted in self._words.items() if wanted == words], words)

    def _show_to(self, pages: list[WebSocket], words: tuple[str, str]) -> None:
        with self._turn:
            services = overview.services(words[0])
            connections = overview.connections(words[1], but=self)
            figures = overview.figures(self)
        broadcast(pages, json.dumps({"services": services, "connections": connections, "figures": figures}))

    def _flush(self) -> None:
        """Send what was traced since the last time, to those who take it."""
        for session, (stream, take) in list(self._sessions.items()):
            if stream.pending < _SLOW and (traced := session.take()):
                take(traced)


def _pass_on(fd: WebSocket, traced: list[str]) -> None:
    broadcast([fd], json.dumps({"trace": traced}))


def _token_of(line: str) -> str:
    first, _, rest = line.partition(" ")
    return rest.strip() if first.lower() == "token" else line


def _parse(message: Message) -> dict[str, Any]:
    try:
        said = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_loopback(address: str, port: int) -> bool:
    found = sockethelper.resolve(address or None, port, 1)  # 1: AI_PASSIVE, as listen() has it
    return all(ipaddress.ip_address(where[0].partition("%")[0]).is_loopback for _, where in found)


def _names_loopback(host: str) -> bool:
    """Tell whether a Host is localhost, or an address of it."""
    name = re.sub(r":\d*$", "", host).lower().rstrip(".").strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _traffic(stream: Stream) -> tuple[int, int, int, int]:
    return stream.messages_received, stream.messages_sent, stream.received, stream.sent


def _sum(several: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    return tuple(map(sum, zip(*several)))  # type: ignore[return-value]


def _title() -> str:
    return f"{os.uname().nodename}, process {os.getpid()}"
