"""websockets (asyncio) on uvloop: with_websockets.py echo|fanout|packed PORT."""

import sys

import uvloop
from websockets.asyncio.server import broadcast, serve

room = set()


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def fanout(ws):
    room.add(ws)
    try:
        async for message in ws:
            broadcast(room, message)
    finally:
        room.discard(ws)


async def main(load, port):
    handler = {"echo": echo, "fanout": fanout, "packed": echo}[load]
    options = {"backlog": 4096, "max_size": None, "ping_interval": None}
    if load != "packed":
        options["compression"] = None
    async with serve(handler, "127.0.0.1", int(port), **options) as server:
        await server.serve_forever()


uvloop.run(main(*sys.argv[1:]))
