"""A WSGI app on gevent.pywsgi's server, and clients that speak byte by byte; the fixture `serve_wsgi` is in conftest."""

from __future__ import annotations

from by_hand import Peer
from gevent import socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from gws.frame import CLOSE, FIN

SOUND = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request(line="GET /chat?room=1 HTTP/1.1", **changes):
    """Encode a sound opening request, but for the changes: X_Y is the header X-Y, None leaves it out."""
    fields = SOUND | {name.replace("_", "-"): value for name, value in changes.items()}
    return "\r\n".join([line, *(f"{k}: {v}" for k, v in fields.items() if v is not None), "", ""]).encode()


PLAIN = request("GET /health HTTP/1.1", Upgrade=None, Connection=None, Sec_WebSocket_Key=None)


class Served:
    """A server, its log, and clients of it."""

    def __init__(self, app, handler_class, **ssl_args):
        self.lines = []
        self.errors = []
        self.server = WSGIServer(
            ("127.0.0.1", 0),
            app,
            spawn=Pool(),
            log=self,
            error_log=Errors(self.errors),
            handler_class=handler_class,
            **ssl_args,
        )
        self.server.start()
        self.port = self.server.server_port
        self.url = f"ws://127.0.0.1:{self.port}"
        self._peers = []

    def write(self, line):
        self.lines.append(line)

    def dial(self, data=b""):
        """Connect, and send what a client might."""
        peer = Wire(socket.create_connection(("127.0.0.1", self.port)))
        peer.sock.settimeout(5)
        peer.sock.sendall(data)
        self._peers.append(peer)
        return peer

    def close(self):
        for peer in self._peers:
            peer.close()
        self.server.stop(timeout=5)


class Errors:
    def __init__(self, lines):
        self.lines = lines

    def write(self, line):
        self.lines.append(line)

    def flush(self):
        pass


class Wire(Peer):
    """A client, by hand."""

    def __init__(self, sock):
        super().__init__(sock, server=False)

    def head(self):
        """Read an answer's head: its status line, and its headers by their lower-case names."""
        while b"\r\n\r\n" not in self._data:
            assert self._receive(), f"the end came in the middle of a head: {self._data}"
        head, self._data = self._data.split(b"\r\n\r\n", 1)
        line, *fields = head.decode().split("\r\n")
        return line, {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}

    def hear_all_until_close(self):
        """Return the frames up to the server's Close, and that."""
        frames = []
        while (frame := self.hear()) is not None:
            frames.append(frame)
            if frame[0] == FIN | CLOSE:
                break
        return frames

    def rest(self):
        """Read to the end."""
        while self._receive():
            pass
        return self._data
