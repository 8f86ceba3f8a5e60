"""python examples/chat.py [PORT [ADDRESS]]   --   a chat room: open http://127.0.0.1:8888 in two windows."""

import json
import secrets
import sys
import time
import unicodedata
from collections import deque
from itertools import count
from pathlib import Path

from gws import server, websocket

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
names, history, numbers = {}, deque(maxlen=40), count(time.time_ns() // 1000)  # which grow on across a restart


@server.on("http")
def page(request):  # each page has a nonce of its own: the browser runs no script but that of the page
    page = PAGE.replace("NONCE", secrets.token_urlsafe())
    return (200, {"Content-Type": "text/html; charset=utf-8"}, page) if request.path == "/" else 404


@server.on("message")
def message(fd, msg):  # {"name": ...} first, {"text": ...} from then on; whoever sends anything else is shown out
    key, most, take = ("text", 2000, say) if fd in names else ("name", 32, enter)
    try:
        given = unicodedata.normalize("NFC", json.loads(msg)[key]).strip()
    except (ValueError, LookupError, TypeError, RecursionError):
        return fd.close(1007, f'expected {{"{key}": "..."}} in JSON')
    if len(given) > most or not any(char.isprintable() and char != " " for char in given):
        return fd.close(1008, f"expected a {key} of 1 to {most} characters")
    return take(fd, given)


def enter(fd, asked):  # under a name that nobody else here has
    asked, taken = " ".join(asked.split()), {name.casefold() for name in names.values()}
    names[fd] = next(n for i in count(1) if (n := f"{asked} {i}" if i > 1 else asked).casefold() not in taken)
    tell([fd], kind="welcome", you=names[fd], here=list(names.values()), history=list(history))
    tell(names.keys() - {fd}, kind="enter", name=names[fd])


def say(fd, text):
    history.append({"number": next(numbers), "time": int(time.time() * 1000), "name": names[fd], "text": text})
    tell(names, kind="said", **history[-1])


@server.on("disconnect")
def leave(fd, code, reason):
    if fd in names:
        tell(names, kind="leave", name=names.pop(fd))


def tell(fds, **said):
    websocket.broadcast(fds, json.dumps(said))


if __name__ == "__main__":
    server.listen(*sys.argv[2:], port=int(sys.argv[1]) if len(sys.argv) > 1 else 8888, max_message=32 * 1024)
