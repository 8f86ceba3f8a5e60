"""The threaded client of the package `websockets`; see commands.py."""

from commands import dump, load, obey
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


class Peer:
    def connect(self, url, protocols):
        self.ws = connect(url, subprotocols=protocols or None, max_size=2**24, proxy=None)
        return {"protocol": self.ws.subprotocol}

    def send(self, messages):
        for message in messages:
            self.ws.send(load(message))

    def fragments(self, pieces):
        self.ws.send(map(load, pieces))

    def recv(self):
        try:
            return dump(self.ws.recv())
        except ConnectionClosed:
            return self.closed()

    def ping(self, payload):
        if not self.ws.ping(payload).wait(10):
            raise TimeoutError

    def close(self, code, reason):
        self.ws.close(code, reason)
        return self.closed()

    def closed(self):
        got = self.ws.protocol.close_rcvd
        return {"closed": [got.code, got.reason] if got else None}

    def raw(self, base64):
        self.ws.socket.sendall(load({"base64": base64}))

    def drop(self):
        self.ws.close_socket()


obey(Peer())
