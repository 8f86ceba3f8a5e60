"""python examples/echoclient.py [PORT]   --   say hello to the echo server, and print what comes back."""

import sys

import gws.client

client = gws.client.new()
client.on("open", lambda: client.write("hello"))
client.on("message", lambda msg: print("on message...", msg))
client.on("close", lambda code, reason: print("on close...", code, reason))

if __name__ == "__main__":
    client.connect("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8888)
    client.join()
