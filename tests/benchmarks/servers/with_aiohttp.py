"""aiohttp on uvloop: with_aiohttp.py echo|fanout|packed PORT."""

import sys

import uvloop
from aiohttp import WSMsgType, web

room = set()


async def echo(request):
    ws = web.WebSocketResponse(compress=load == "packed", max_msg_size=0)
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def fanout(request):
    ws = web.WebSocketResponse(compress=False, max_msg_size=0)
    await ws.prepare(request)
    room.add(ws)
    try:
        async for message in ws:
            for member in list(room):
                await member.send_str(message.data)
    finally:
        room.discard(ws)
    return ws


load, port = sys.argv[1:]
app = web.Application()
app.router.add_get("/", {"echo": echo, "fanout": fanout, "packed": echo}[load])
options = {"access_log": None, "backlog": 4096, "print": None}
web.run_app(app, host="127.0.0.1", port=int(port), loop=uvloop.new_event_loop(), **options)
