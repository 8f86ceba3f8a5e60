"""python examples/gateway/main.py [PORT [ADDRESS]]   --   fireflies: open http://127.0.0.1:8888 in two windows."""

import signal
import sys
from pathlib import Path

import gevent
from gevent.event import Event

from gws import skynet

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PAGE = {f"/{path.name}": path for path in Path(__file__).parent.iterdir() if path.suffix in KINDS}
RULES = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # no script but those


def page(request):
    path = PAGE.get("/page.html" if request.path == "/" else request.path)
    if path is None:
        return 404
    kind = f"{KINDS[path.suffix]}; charset=utf-8"
    return 200, {"Content-Type": kind, "Content-Security-Policy": RULES}, path.read_text(encoding="utf-8")


def main(port=8888, address="127.0.0.1"):
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stopped.set)
    skynet.name(".world", skynet.newservice("world"))
    watchdog = skynet.newservice("watchdog", agent="agent")
    skynet.call(watchdog, "start", {"address": address, "port": int(port), "http": page, "max_message": 1024})
    stopped.wait()
    skynet.call(watchdog, "stop")


if __name__ == "__main__":
    main(*sys.argv[1:])
