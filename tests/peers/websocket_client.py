"""The client of the package `websocket-client`; see commands.py."""

import struct

import websocket
from commands import dump, load, obey
from websocket import ABNF


class Peer:
    def connect(self, url, protocols):
        self.ws = websocket.create_connection(url, subprotocols=protocols or None, timeout=20, http_no_proxy=["*"])
        return {"protocol": self.ws.getsubprotocol()}

    def send(self, messages):
        for message in map(load, messages):
            self.ws.send(message, ABNF.OPCODE_TEXT if isinstance(message, str) else ABNF.OPCODE_BINARY)

    def fragments(self, pieces):
        opcode = ABNF.OPCODE_TEXT if "text" in pieces[0] else ABNF.OPCODE_BINARY
        for number, piece in enumerate(pieces):
            final = int(number == len(pieces) - 1)
            self.ws.send_frame(ABNF.create_frame(load(piece), ABNF.OPCODE_CONT if number else opcode, final))

    def recv(self):
        try:
            while True:
                opcode, data = self.ws.recv_data()
                if opcode == ABNF.OPCODE_CLOSE:
                    return {"closed": list(parse_close(data))}
                return dump(data.decode() if opcode == ABNF.OPCODE_TEXT else data)
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return {"closed": None}

    def ping(self, payload):
        self.ws.ping(payload)
        while self.ws.recv_data(control_frame=True) != (ABNF.OPCODE_PONG, payload.encode()):
            pass

    def close(self, code, reason):
        self.ws.send_close(code, reason.encode())
        return self.recv()

    def raw(self, base64):
        self.ws.sock.sendall(load({"base64": base64}))

    def drop(self):
        self.ws.shutdown()


def parse_close(data):
    return (struct.unpack("!H", data[:2])[0], data[2:].decode()) if data else (1005, "")


obey(Peer())
