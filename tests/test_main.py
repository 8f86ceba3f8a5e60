"""gws.__main__: `python -m gws`, in this process, as a process of its own, and at a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import gevent
import pytest
import trustme
from gevent import subprocess
from gevent.monkey import get_original
from gevent.socket import wait_read

import gws
from gws import __main__ as room
from gws.__main__ import COMMANDS, main
from gws.errors import HandshakeError
from gws.server import Server
from gws.websocket import WebSocket

pytestmark = pytest.mark.usefixtures("deadline")

close = get_original("os", "close")  # gevent's own puts it off until the loop has turned, which may wait for it

COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "gws"]
CONNECT = ["connect", "--wait", "0"]
LOOPS = ["libev-cext", "libuv"]


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(Path(gws.__file__).parents[1]), **more}


@pytest.fixture
def start():
    """Return a function that starts `python -m gws` with pipes; what is still there in the end is killed."""
    running = []

    def run(*args, stdin=subprocess.PIPE, **env):
        pipe = subprocess.PIPE
        made = subprocess.Popen([*COMMAND, *args], stdin=stdin, stdout=pipe, stderr=pipe, env=environment(**env))
        running.append(made)
        return made

    yield run
    for each in running:
        if each.returncode is None:
            each.kill()
        each.communicate()


@pytest.fixture
def echo(start):
    """Return a function that starts `echo` on a free port and gives (the process, its URL)."""

    def run(*args, **env):
        server = start("echo", "--port", "0", *args, **env)
        return server, server.stdout.readline().decode().removeprefix("listening on ").strip()

    return run


@pytest.fixture
def serve():
    """Return a function that starts a server in this process."""
    servers = []

    def run(options=None, **handlers):
        server = Server()
        for event, handler in handlers.items():
            server.on(event, handler)
        server.start("127.0.0.1", 0, **(options or {}))
        servers.append(server)
        return server

    yield run
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the paths of PEM files."""
    here, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    leaf = authority.issue_cert("localhost")
    made = SimpleNamespace(both=str(here / "both.pem"), cert=str(here / "cert.pem"), ca=str(here / "ca.pem"))
    leaf.private_key_and_cert_chain_pem.write_to_path(made.both)
    leaf.cert_chain_pems[0].write_to_path(made.cert)
    authority.cert_pem.write_to_path(made.ca)
    return made


def ended(process, data=None):
    """Wait for the end of a process and return (status, stdout, stderr)."""
    out, err = process.communicate(data)
    return process.returncode, out.decode(), err.decode()


class TestAtATerminal:
    """As people use it: standard input, output and error are one pseudo-terminal."""

    @pytest.fixture(params=LOOPS)
    def type_to(self, request):
        """Return a function that starts the client at a terminal."""
        made = []

        def run(*args):
            made.append(Terminal(*args, GEVENT_LOOP=request.param))
            return made[-1]

        yield run
        for each in made:
            each.close()

    def test_a_conversation(self, serve, type_to):
        server = serve(message=lambda fd, message: fd.write(message.upper()))
        terminal = type_to(*CONNECT, f"ws://127.0.0.1:{server.port}")
        terminal.expect("connected; Ctrl-D ends it\r\n")
        terminal.type("hello\n")
        terminal.expect("< HELLO\r\n")
        (fd,) = server.fds
        fd.write("unasked \x1b[2J")
        terminal.expect("< unasked \\x1b[2J\r\n")
        terminal.type("\x04")  # Ctrl-D
        terminal.expect("closed: 1000\r\n")
        assert terminal.status() == 0

    def test_the_server_closes_while_we_think(self, serve, type_to):
        server = serve()
        terminal = type_to(*CONNECT, f"ws://127.0.0.1:{server.port}")
        terminal.expect("connected")
        terminal.type("half a li")
        (fd,) = server.fds
        fd.close(4001, "that is enough")
        terminal.expect("closed: 4001 that is enough\r\n")
        assert terminal.status() == 1

    def test_ctrl_c(self, serve, type_to):
        codes = []
        server = serve(disconnect=lambda fd, code, reason: codes.append(code))
        terminal = type_to(*CONNECT, f"ws://127.0.0.1:{server.port}")
        terminal.expect("connected")
        terminal.type("\x03")  # Ctrl-C
        terminal.expect("closed: 1000\r\n")
        assert terminal.status() == 130
        assert terminal.seen.replace("^C", "") == "connected; Ctrl-D ends it\r\nclosed: 1000\r\n"
        assert codes == [1000]

    def test_ctrl_c_while_connecting(self, type_to):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            terminal = type_to(*CONNECT, f"ws://127.0.0.1:{silent.getsockname()[1]}")
            wait_read(silent.fileno())
            terminal.type("\x03")
            assert terminal.status() == 130
        assert terminal.seen.replace("^C", "") == ""

    def test_ctrl_c_ends_an_echo(self, type_to):
        terminal = type_to("echo", "--port", "0")
        terminal.expect("listening on ws://127.0.0.1:")
        terminal.expect("\r\n")
        terminal.type("\x03")
        assert terminal.status() == 0
        assert terminal.seen.count("\n") == 1


class Terminal:
    """A pseudo-terminal, and the command that runs at it, whose blocking mode nobody may find changed."""

    def __init__(self, *args, **env):
        self.seen = ""
        self._rest = ""
        self._master, self._slave = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *args],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment(**env),
            preexec_fn=_take_terminal,
        )

    def type(self, text):
        os.write(self._master, text.encode())

    def expect(self, text):
        """Read until `text` was there."""
        while text not in self._rest:
            self._read()
        self._rest = self._rest.partition(text)[2]

    def _read(self):
        wait_read(self._master)
        text = os.read(self._master, 10_000).decode()
        self.seen += text
        self._rest += text

    def status(self):
        status = self._process.wait()
        assert os.get_blocking(self._slave)
        return status

    def close(self):
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        close(self._slave)
        close(self._master)


def _take_terminal():
    """Make standard input the controlling terminal, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class TestAsAProcess:
    @pytest.mark.parametrize("loop", LOOPS)
    def test_echo_and_connect(self, echo, start, loop):
        server, url = echo(GEVENT_LOOP=loop)
        client = start(*CONNECT, url, GEVENT_LOOP=loop)
        assert ended(client, b"a\nb\n") == (0, "a\nb\n", "connected\nclosed: 1000\n")
        server.send_signal(signal.SIGTERM)
        assert ended(server) == (0, "", "")

    @pytest.mark.parametrize("loop", LOOPS)
    def test_input_from_a_file(self, serve, start, tmp_path, loop):
        (tmp_path / "lines").write_text("a\nb")
        server = serve(message=WebSocket.write)
        with open(tmp_path / "lines", "rb") as file:
            client = start(*CONNECT, f"ws://127.0.0.1:{server.port}", stdin=file, GEVENT_LOOP=loop)
        assert ended(client) == (0, "a\nb\n", "connected\nclosed: 1000\n")

    @pytest.mark.parametrize("loop", LOOPS)
    def test_input_from_dev_null(self, serve, start, loop):
        client = start(*CONNECT, f"ws://127.0.0.1:{serve().port}", stdin=subprocess.DEVNULL, GEVENT_LOOP=loop)
        assert ended(client) == (0, "", "connected\nclosed: 1000\n")

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_descriptors_that_are_closed(self, serve, closed):
        """Their numbers go to no socket."""
        server = serve(message=WebSocket.write)
        command = ["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, *CONNECT, f"ws://127.0.0.1:{server.port}"]
        done = subprocess.run(command, input=b"a\n", capture_output=True, env=environment())
        assert done.returncode == 0
        assert done.stdout == (b"" if "<" in closed or closed == ">&-" else b"a\n")
        assert done.stderr == (b"" if "2" in closed else b"connected\nclosed: 1000\n")

    def test_tls(self, echo, start, files):
        _, url = echo("--address", "localhost", "--certfile", files.both)
        url = re.sub("//.*:", "//localhost:", url)
        assert url.startswith("wss://")
        assert ended(start(*CONNECT, "--cafile", files.ca, url), b"a\n")[:2] == (0, "a\n")
        assert ended(start(*CONNECT, "--insecure", url), b"a\n")[:2] == (0, "a\n")

    def test_a_unix_socket(self, start, tmp_path):
        path = str(tmp_path / "socket")
        server = start("echo", "--path", path)
        assert server.stdout.readline().decode() == f"listening on {path}\n"
        assert ended(start(*CONNECT, "--path", path, "ws://localhost/"), b"a\n")[:2] == (0, "a\n")
        server.send_signal(signal.SIGINT)
        assert ended(server) == (0, "", "")
        assert not os.path.exists(path)

    def test_an_echo_that_is_stopped_says_goodbye(self, echo, start):
        server, url = echo()
        client = start(*CONNECT, url)
        assert client.stderr.readline() == b"connected\n"
        server.send_signal(signal.SIGINT)
        assert client.wait() == 0
        assert client.stderr.readline() == b"closed: 1001\n"

    @pytest.mark.parametrize(
        ("env", "stream"), [({"GWS_PURE": ""}, "compiled|plain"), ({"GWS_PURE": "1"}, "plain, as GWS_PURE says")]
    )
    @pytest.mark.parametrize("loop", LOOPS)
    def test_version(self, start, env, stream, loop):
        status, out, err = ended(start("--version", GEVENT_LOOP=loop, **env))
        assert (status, err) == (0, "")
        library = loop.partition("-")[0]
        assert re.fullmatch(
            rf"gws {re.escape(gws.__version__)}, stream: ({stream}) \(gws\._?stream\)\n"
            rf"gevent [0-9.]+\S*, loop: {library}-[0-9.]+ \(gevent\.{library}\..*\)\n"
            r"\w+ 3\.[0-9.]+\S* on \w+\n",
            out,
        )

    def test_an_error_is_one_line(self, start):
        status, out, err = ended(start(*CONNECT, "ws://127.0.0.1:1"))
        assert (status, out, err) == (1, "", "gws: Connection refused: 127.0.0.1:1\n")

    def test_verbose(self, echo, start):
        server, url = echo("-v")
        ended(start(*CONNECT, re.sub("^ws", "http", url).replace("http", "ws", 1), "--origin", "http://elsewhere"))
        server.send_signal(signal.SIGINT)
        _, _, err = ended(server)
        assert "this Origin is not allowed here" in err


class TestErrors:
    """What fails is one line on stderr, and status 1."""

    @pytest.fixture
    def fails(self, capfd):
        """Return a function that runs the command and gives what it complains about."""

        def run(*args):
            assert main(args) == 1
            out, err = capfd.readouterr()
            assert out == ""
            assert err.startswith("gws: ")
            assert err.count("\n") == 1
            return err.removeprefix("gws: ").rstrip("\n")

        return run

    def test_a_port_in_use(self, serve, fails):
        port = serve().port
        assert fails("echo", "--port", str(port)) == f"Address already in use: 127.0.0.1:{port}"

    def test_a_unix_socket_that_cannot_be(self, fails, tmp_path):
        assert fails("echo", "--path", f"{tmp_path}/no/socket") == f"No such file or directory: {tmp_path}/no/socket"

    def test_an_unknown_address(self, fails, unknown):
        assert fails("echo", "--address", "nowhere.test") == "Name or service not known: nowhere.test"

    @pytest.mark.parametrize("option", ["--certfile", "--keyfile"])
    def test_a_missing_certificate(self, fails, files, option):
        args = {"--certfile": files.cert, option: "/nonexistent.pem"}
        told = fails("echo", *[word for pair in args.items() for word in pair])
        assert told == "No such file or directory: /nonexistent.pem"

    def test_a_certificate_without_its_key(self, fails, files):
        assert re.fullmatch(f"TLS failed: .*{re.escape(files.cert)}", fails("echo", "--certfile", files.cert))

    def test_nobody_there(self, fails):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert fails("connect", f"ws://127.0.0.1:{port}/") == f"Connection refused: 127.0.0.1:{port}"

    def test_an_unknown_host(self, fails, unknown):
        assert fails("connect", "ws://nowhere.test/") == "Name or service not known: nowhere.test"

    @pytest.fixture
    def unknown(self, monkeypatch):
        """No name is known."""

        def getaddrinfo(*args):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(gevent.get_hub(), "resolver", SimpleNamespace(getaddrinfo=getaddrinfo))

    def test_no_unix_socket_there(self, fails, tmp_path):
        path = f"{tmp_path}/socket"
        assert fails("connect", "--path", path, "ws://x/") == f"No such file or directory: {path}"

    def test_no_authorities_there(self, fails):
        assert fails("connect", "--cafile", "/no.pem", "wss://x/") == "No such file or directory: /no.pem"

    def test_nobody_answers(self, fails):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
            assert fails("connect", "--timeout", "0.01", url) == f"timed out after 0.01 s: {url}"

    def test_a_refusal(self, serve, fails):
        server = serve(handshake=lambda fd, request: (401, {}, "who are you?\nreally"))
        told = fails("connect", f"ws://127.0.0.1:{server.port}/")
        assert told.startswith("the handshake failed: 401 Unauthorized")

    def test_no_web_server(self, fails, greenlets):
        def greet():
            with server.accept()[0] as peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

        with gevent.socket.create_server(("127.0.0.1", 0)) as server:
            answer = greenlets(greet)
            told = fails("connect", f"ws://127.0.0.1:{server.getsockname()[1]}/")
            answer.join()
        assert told == "the handshake failed: the status line is malformed (RFC 9112 section 4)"

    def test_a_certificate_of_somebody_unknown(self, serve, fails, files):
        told = fails("connect", f"wss://localhost:{serve({'certfile': files.both}).port}")
        assert re.fullmatch(
            r"the server's certificate is refused: .* certificate.* \(see --cafile and --insecure\)", told
        )

    def test_a_certificate_for_another_host(self, serve, fails, files):
        server = serve({"certfile": files.both})
        told = fails("connect", "--cafile", files.ca, f"wss://127.0.0.1:{server.port}")
        assert "certificate is not valid for '127.0.0.1'" in told

    def test_tls_to_a_plain_server(self, serve, fails):
        told = fails("connect", f"wss://127.0.0.1:{serve({'handshake_timeout': 0.01}).port}")
        assert re.fullmatch("TLS failed: [a-z][a-z ]+", told)

    def test_plain_to_a_tls_server(self, serve, fails, files):
        told = fails("connect", f"ws://127.0.0.1:{serve({'certfile': files.both}).port}")
        assert told.startswith("the handshake failed: ") or told == "Connection reset by peer"

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (None, "503 Service Unavailable"),
            (b"", "503 Service Unavailable"),
            (b"\n  we are full\nand more\n", "503 Service Unavailable: we are full"),
            (b"\x1b[2J\xff", "503 Service Unavailable: \\x1b[2J\ufffd"),
            (b"x" * 1000, "503 Service Unavailable: " + "x" * 200),
        ],
    )
    def test_the_body_of_a_refusal(self, monkeypatch, fails, body, told):
        def refuse(args):
            raise HandshakeError(503, "Service Unavailable", (), body)

        monkeypatch.setitem(COMMANDS, "echo", COMMANDS["echo"]._replace(run=refuse))
        assert fails("echo") == f"the handshake failed: {told}"

    @pytest.mark.parametrize(
        ("error", "told"), [(ImportError("pip install it"), "pip install it"), (TimeoutError(), "TimeoutError")]
    )
    def test_others(self, monkeypatch, fails, error, told):
        def fail(args):
            raise error

        monkeypatch.setitem(COMMANDS, "echo", COMMANDS["echo"]._replace(run=fail))
        assert fails("echo") == told


class TestWrongUse:
    """Status 2, and the last line says what is expected."""

    @pytest.mark.parametrize(
        ("args", "told"),
        [
            (["dance"], "invalid choice: 'dance'"),
            (["echo", "--port", "http"], "invalid int value: 'http'"),
            (["echo", "--port", "99999"], "a port is 0 to 65535, not 99999"),
            (["echo", "--max-message", "0"], "max_message must be a positive number, not 0"),
            (["echo", "--keyfile", "x"], "--keyfile is of no use without --certfile"),
            (["connect"], "the following arguments are required: URL"),
            (["connect", "example.org"], "expected a ws:// or wss:// URL"),
            (["connect", "http://example.org"], "expected a ws:// or wss:// URL"),
            (["connect", "ws://\x1b/#x"], "a WebSocket URL has no fragment"),
            (["connect", "ws://x", "-H", "nonsense"], "expected 'NAME: VALUE', not 'nonsense'"),
            (["connect", "ws://x", "--cafile", "x", "--insecure"], "not allowed with argument --cafile"),
        ],
    )
    def test_it(self, capfd, args, told):
        with pytest.raises(SystemExit) as exit:
            main(args)
        assert exit.value.code == 2
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("python -m gws")
        assert told in last
        assert last.isprintable()

    def test_a_header_that_would_be_two(self, serve, capfd):
        with pytest.raises(SystemExit) as exit:
            main(["connect", f"ws://127.0.0.1:{serve().port}", "-H", "X: a\r\nY: b"])
        assert exit.value.code == 2
        assert "a control character in the value of X" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_echo_in_this_process(capfd, greenlets, number):
    greenlets(os.kill, os.getpid(), number)  # once listen() waits
    assert main(["echo", "--port", "0"]) == 0
    assert re.fullmatch(r"listening on ws://127\.0\.0\.1:\d+\n", capfd.readouterr().out)
    signal.signal(number, signal.getsignal(number))  # gevent's watchers leave it at the system's default


def test_without_a_command(capfd):
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("gws ")
    for name in COMMANDS:
        assert re.search(f"^ +{name} ", out, re.MULTILINE)
    assert err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help(capfd, name):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert COMMANDS[name].summary in capfd.readouterr().out


def test_an_interrupt_is_quiet(monkeypatch, capfd):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "echo", COMMANDS["echo"]._replace(run=interrupt))
    assert main(["echo"]) == 130
    assert capfd.readouterr() == ("", "")


def test_the_docstring_names_every_command():
    assert all(f"python -m gws {name} " in room.__doc__ for name in COMMANDS)
