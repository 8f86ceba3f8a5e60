"""picows on uvloop: with_picows.py echo|fanout PORT."""

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

room = set()


class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Fanout(WSListener):
    def on_ws_connected(self, transport):
        room.add(transport)

    def on_ws_disconnected(self, transport):
        room.discard(transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        message = frame.get_payload_as_bytes()
        for member in room:
            member.send(frame.msg_type, message)


async def main(load, port):
    listener = {"echo": Echo, "fanout": Fanout}[load]
    options = {"backlog": 4096, "max_frame_size": 64 * 1024 * 1024}
    server = await ws_create_server(lambda request: listener(), "127.0.0.1", int(port), **options)
    await server.serve_forever()


uvloop.run(main(*sys.argv[1:]))
