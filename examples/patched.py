"""python examples/patched.py [PORT]   --   gws in a monkey-patched program: send a path, and get the page there.

gws itself needs no patching.  What does is the standard library: `urlopen` below waits for an answer, and because its
sockets are gevent's, only the greenlet that called it waits.  The page comes from this very server, which would hang
otherwise.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import urllib.error  # noqa: E402
import urllib.parse  # noqa: E402
import urllib.request  # noqa: E402

import gws.server as server  # noqa: E402

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8888

urlopen = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # it is our own host: no proxy


@server.on("http")
def page(request):
    """Answer a browser, or `urlopen` below."""
    if request.path == "/missing":
        return 404
    return f"this is {urllib.parse.unquote(request.path)}\n"


@server.on("message")
def message(fd, msg):
    """Fetch the page in blocking style, as any library of yours would."""
    url = f"http://127.0.0.1:{PORT}/{urllib.parse.quote(msg)}"
    try:
        with urlopen(url, timeout=10) as answer:
            fd.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            fd.write(f"{error.code} {error.reason}")


if __name__ == "__main__":
    server.listen(address="127.0.0.1", port=PORT, max_message=2000)  # thrice as long when quoted, still a sound URL
