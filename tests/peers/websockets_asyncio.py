"""The asyncio client and server of the package `websockets`; see commands.py."""

import asyncio
import sys

from commands import dump, load, obey_async, say
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

PROTOCOLS = ["v2.gws", "v1.gws"]


class Peer:
    def __init__(self):
        self.arrived = asyncio.Queue()

    async def listen(self):
        server = await serve(self.arrive, "127.0.0.1", 0, select_subprotocol=self.select, max_size=2**24)
        return {"port": server.sockets[0].getsockname()[1]}

    @staticmethod
    def select(_, offered):
        return next((protocol for protocol in offered if protocol in PROTOCOLS), None)

    async def arrive(self, ws):
        await self.arrived.put(ws)
        await ws.wait_closed()

    async def accept(self):
        self.ws = await self.arrived.get()
        return {"protocol": self.ws.subprotocol}

    async def connect(self, url, protocols):
        self.ws = await connect(url, subprotocols=protocols or None, max_size=2**24, proxy=None)
        return {"protocol": self.ws.subprotocol}

    async def send(self, messages):
        for message in messages:
            await self.ws.send(load(message))

    async def fragments(self, pieces):
        await self.ws.send(map(load, pieces))

    async def recv(self):
        try:
            return dump(await self.ws.recv())
        except ConnectionClosed:
            return self.closed()

    async def ping(self, payload):
        await asyncio.wait_for(await self.ws.ping(payload), 10)

    async def close(self, code, reason):
        await self.ws.close(code, reason)
        return self.closed()

    def closed(self):
        got = self.ws.protocol.close_rcvd
        return {"closed": [got.code, got.reason] if got else None}

    async def raw(self, base64):
        self.ws.transport.write(load({"base64": base64}))

    async def drop(self):
        self.ws.transport.abort()


async def main():
    peer = Peer()
    if sys.argv[1] == "server":
        say(await peer.listen())
    await obey_async(peer)


asyncio.run(main())
