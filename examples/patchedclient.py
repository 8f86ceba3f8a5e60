"""python examples/patchedclient.py [URL]   --   fifty clients of an echo server, written with threads, in one thread.

In a monkey-patched program a thread is a greenlet, and what was written for threads runs as it is: gws.client among it,
which needs no patching, and waits in its own greenlet alone.
"""

from gevent import monkey

monkey.patch_all()

import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

import gws.client  # noqa: E402

CLIENTS, ECHOES = 50, 20


def talk(url):
    """Return the seconds that each echo took."""
    client = gws.client.connect(url)
    took = []
    for number in range(ECHOES):
        began = time.perf_counter()
        client.write(f"message {number}")
        assert client.read() == f"message {number}"
        took.append(time.perf_counter() - began)
        time.sleep(0.01)
    client.close()
    return took


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8888"
    with ThreadPoolExecutor(CLIENTS) as pool:
        took = sorted(seconds for each in pool.map(talk, [url] * CLIENTS) for seconds in each)
    median, slowest = statistics.median(took) * 1000, took[-1] * 1000
    print(f"{CLIENTS} clients, {len(took)} echoes, median {median:.2f} ms, slowest {slowest:.2f} ms")
