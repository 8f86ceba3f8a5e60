"""gws.talk: a conversation in this process, standard input being what the test says."""

from __future__ import annotations

import os
import re
import signal

import gevent
import pytest
import trustme
from gevent.monkey import get_original

from gws.__main__ import main
from gws.server import Server
from gws.websocket import WebSocket

pytestmark = pytest.mark.usefixtures("deadline")

close = get_original("os", "close")  # gevent's own puts it off until the loop has turned, which may wait for it

echo = WebSocket.write


@pytest.fixture(autouse=True)
def signals():
    """gevent's watchers leave these two at the system's default."""
    yield
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.getsignal(number))


@pytest.fixture
def serve():
    """Return a function that starts a server with some handlers and gives its URL."""
    servers = []

    def start(options=None, **handlers):
        server = Server()
        for event, handler in handlers.items():
            server.on(event, handler)
        server.start("127.0.0.1", 0, **(options or {}))
        servers.append(server)
        return f"ws://127.0.0.1:{server.port}"

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture
def untrusted(tmp_path):
    """Return the path of a certificate, and its key, that nobody trusts."""
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    return str(tmp_path / "both.pem")


@pytest.fixture
def stdin():
    """Return a function that puts bytes on standard input, and then (but `end=False`) its end."""
    saved, kept = os.dup(0), []

    def say(data, end=True):
        ours, theirs = os.pipe()
        os.write(theirs, data)
        os.dup2(ours, 0)
        close(ours)
        kept.append(theirs)
        if end:
            close(kept.pop())

    yield say
    os.dup2(saved, 0)
    for fd in (saved, *kept):
        close(fd)


@pytest.fixture
def talk(stdin, capfd):
    """Return a function that says `data` to a server and gives (status, stdout, the lines of stderr)."""

    def run(data, *args, end=True):
        stdin(data, end)
        status = main(["connect", "--wait", "0", *args])
        out, err = capfd.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.mark.parametrize(
    ("data", "out"),
    [
        (b"a\nb\n", "a\nb\n"),
        (b"a\nb", "a\nb\n"),
        (b"", ""),
        (b"\n", "\n"),
        ("ä 字\n".encode(), "ä 字\n"),
        (b"\x1b[2J\r\n", "\\x1b[2J\\r\n"),
        (b"".join(b"%d\n" % number for number in range(5000)), "".join(f"{number}\n" for number in range(5000))),
    ],
    ids=["two", "no newline", "none", "empty", "utf-8", "escaped", "many"],
)
def test_lines_go_out_and_answers_are_shown(serve, talk, data, out):
    assert talk(data, serve(message=echo)) == (0, out, ["connected", "closed: 1000"])


def test_binary(serve, talk):
    assert talk(b"\x00\xff\n\n", "--binary", serve(message=echo))[:2] == (0, "0x00ff\n0x\n")


def test_input_that_is_no_text(serve, talk):
    status, _, err = talk(b"a\n\xff\nb\n", serve())
    assert status == 1
    assert err[-1] == "gws: line 2 is not UTF-8; --binary sends lines as they are"


def test_answers_in_flight_are_waited_for(serve, talk):
    """A handler that takes its time: the ping behind the message waits for its turn."""

    def slowly(fd, message):
        gevent.sleep(0.005)
        fd.write(message)

    assert talk(b"a\nb\nc\n", serve(message=slowly))[:2] == (0, "a\nb\nc\n")


def test_pongs_ahead_of_answers(serve, talk):
    """A server whose handlers run apart from its reading: the pong is there before any answer."""
    asked = []

    def answer(fd):
        for message in asked:
            fd.write(message)
        fd.close()  # so that the wait is over

    url = serve(message=lambda fd, message: asked.append(message), ping=lambda fd, payload: gevent.spawn(answer, fd))
    assert talk(b"a\nb\n", "--wait", "30", url)[:2] == (0, "a\nb\n")


def test_wait_to_the_end(serve, talk):
    def finish(fd):
        fd.write("late")
        fd.close(1000, "that was all")

    out = talk(b"", "--wait", "inf", serve(ping=lambda fd, payload: gevent.spawn(finish, fd)))
    assert out == (0, "late\n", ["connected", "closed: 1000 that was all"])


def test_wait_some_seconds(serve, talk):
    assert talk(b"", "--wait", "0.001", serve()) == (0, "", ["connected", "closed: 1000"])


def test_ping(serve, talk):
    _, _, err = talk(b"", "--ping", serve())
    assert re.fullmatch(r"ping: \d+\.\d{3} ms", err[1])


@pytest.mark.parametrize(
    ("code", "reason", "status", "told"),
    [
        (1000, "", 0, "closed: 1000"),
        (1001, "we move", 0, "closed: 1001 we move"),
        (1011, "", 1, "closed: 1011"),
        (4000, "\x1b[31mred", 1, "closed: 4000 \\x1b[31mred"),
    ],
)
def test_the_server_closes(serve, talk, code, reason, status, told):
    url = serve(message=lambda fd, message: fd.close(code, reason))
    assert talk(b"x\n", url, end=False) == (status, "", ["connected", told])


def test_the_connection_is_lost(serve, talk):
    status, _, err = talk(b"x\n", serve(message=lambda fd, message: fd.stream.close()), end=False)
    assert status == 1
    assert re.match("closed: 1006 (the connection was lost|Connection reset by peer)", err[-1])


def test_what_is_sent_along(serve, talk):
    requests = []
    url = serve({"protocols": ["b", "a"], "origins": "*"}, handshake=lambda fd, request: requests.append(request))
    args = ["-H", "X-One: 1", "--header", "X-Two:a:b ", "--protocol", "a", "--protocol", "b", "--origin", "http://x"]
    _, _, err = talk(b"", *args, f"{url}/path?q=1")
    assert err[0] == "connected (a)"
    (request,) = requests
    assert request.target == "/path?q=1"
    names = ("X-One", "X-Two", "Origin", "Sec-WebSocket-Protocol")
    assert [request.headers[name] for name in names] == ["1", "a:b", "http://x", "a, b"]


def test_insecure(serve, talk, untrusted):
    url = serve({"certfile": untrusted}, message=echo).replace("ws:", "wss:")
    assert talk(b"a\n", "--insecure", url)[:2] == (0, "a\n")


@pytest.mark.parametrize(("args", "compressed"), [([], True), (["--no-compression"], False)])
def test_compression(serve, talk, args, compressed):
    seen = []
    talk(b"a\n", *args, serve(message=lambda fd, message: seen.append(fd.deflate is not None)))
    assert seen == [compressed]


def test_a_message_that_is_too_long(serve, talk):
    status, _, err = talk(b"0123456789\n", "--max-message", "9", serve(message=echo))
    assert status == 1
    assert err[-1].startswith("closed: 1009 ")


@pytest.mark.parametrize(
    ("path", "status", "told"), [("/dev/full", 1, ["gws: No space left on device"]), (None, 1, [])]
)
def test_the_output_fails(serve, talk, path, status, told):
    """A full disk is told; that nobody reads any more (`| head -1`) is not."""
    url = serve(message=echo)
    if path is None:
        gone, output = os.pipe()
        close(gone)
    else:
        output = os.open(path, os.O_WRONLY)
    saved = os.dup(1)
    os.dup2(output, 1)
    try:
        assert talk(b"x\n", url, end=False) == (1, "", ["connected", "closed: 1000", *told])
    finally:
        os.dup2(saved, 1)
        close(saved)
        close(output)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_in_order(serve, talk, number, status):
    closed = []
    url = serve(
        connection=lambda fd, addr: os.kill(os.getpid(), number),
        disconnect=lambda fd, code, reason: closed.append(code),
    )
    with pytest.raises(SystemExit) as exit:
        talk(b"", url, end=False)
    assert exit.value.code == status
    assert closed == [1000]
