"""python tests/peers/sender.py HOST PORT MESSAGES [SECONDS]   --   echo so many messages, tell "done", then be idle.

Whatever comes back is compared with what was sent.   Each message waits SECONDS before it goes out.
"""

import sys

import gevent

import gws.client

host, port, count, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float((sys.argv[4:] or ["0"])[0])
client = gws.client.connect(host, port)
sent = [f"{number} " * (number * 7 % 1000) for number in range(count)]


def send():
    for text in sent:
        gevent.sleep(pause)
        client.write(text)


print("open", flush=True)
sending = gevent.spawn(send)
for text in sent:
    assert client.read() == text
sending.get()
print("done", flush=True)
for _ in client:
    pass
