"""ws4py on gevent: with_ws4py.py echo|fanout PORT."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from ws4py.server.geventserver import WSGIServer  # noqa: E402
from ws4py.server.wsgiutils import WebSocketWSGIApplication  # noqa: E402
from ws4py.websocket import WebSocket  # noqa: E402

room = set()


class Echo(WebSocket):
    def received_message(self, message):
        self.send(message.data, message.is_binary)


class Fanout(WebSocket):
    def opened(self):
        room.add(self)

    def closed(self, code, reason=None):
        room.discard(self)

    def received_message(self, message):
        for member in list(room):
            member.send(message.data, message.is_binary)


load, port = sys.argv[1:]
app = WebSocketWSGIApplication(handler_cls={"echo": Echo, "fanout": Fanout}[load])
WSGIServer(("127.0.0.1", int(port)), app, log=None, backlog=4096).serve_forever()
