"""python examples/blocking.py [PORT]   --   the echo server again, in the blocking style."""

import sys

import gws.server as server


@server.on("connection")
def connected(fd, addr):
    """Serve one connection, in a greenlet of its own: what waits here keeps nobody else waiting."""
    print("on connect:", fd, addr)
    for msg in fd:
        fd.write(msg)
    print("the end:", fd)


if __name__ == "__main__":
    server.listen(address="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8888)
