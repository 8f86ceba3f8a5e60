"""python tests/autobahn/client.py   --   the echo client that the Autobahn testsuite judges.

AUTOBAHN_URL holds the fuzzing server's URL, AUTOBAHN_AGENT our name in its reports.   With AUTOBAHN_READER it reads in
a loop, instead of having a handler.
"""

import contextlib
import os
import sys

import gws.client
from gws.errors import ConnectionClosed, HandshakeError

LARGEST = 16 * 1024 * 1024  # bytes in the suite's largest message; all other options are what they are by default

READER = bool(os.environ.get("AUTOBAHN_READER"))


def count_cases(url):
    """Ask how many cases there are."""
    client = gws.client.connect(f"{url}/getCaseCount", proxy=None)
    count = int(client.read())
    client.join()
    return count


def run_case(url, number, agent):
    """Echo until the connection ends, however that happens."""
    client = gws.client.new()
    if not READER:
        client.on("message", client.write)
    try:
        client.connect(f"{url}/runCase?case={number}&agent={agent}", max_message=LARGEST, proxy=None)
        if READER:
            read_on(client)
        client.join()
    except (HandshakeError, OSError) as error:  # the suite's verdict will be that the case was not run
        print(f"case number {number}: {error!r}", file=sys.stderr)


def read_on(client):
    """Echo in a loop, until the end."""
    with contextlib.suppress(ConnectionClosed):
        for message in client:
            client.write(message)


def main(url, agent):
    """Go through all the cases, one after the other."""
    for number in range(1, count_cases(url) + 1):
        run_case(url, number, agent)


if __name__ == "__main__":
    main(os.environ["AUTOBAHN_URL"], os.environ.get("AUTOBAHN_AGENT", "gws"))
