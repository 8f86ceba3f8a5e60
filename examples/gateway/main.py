"""python examples/gateway/main.py [PORT [ADDRESS]]   --   fireflies: open http://127.0.0.1:8888 in two windows."""

import secrets
import signal
import sys
from pathlib import Path

import gevent
from gevent.event import Event

from gws import skynet

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def page(request):  # each page has a nonce of its own: the browser runs no script but that of the page
    html = PAGE.replace("NONCE", secrets.token_urlsafe())
    return (200, {"Content-Type": "text/html; charset=utf-8"}, html) if request.path == "/" else 404


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
