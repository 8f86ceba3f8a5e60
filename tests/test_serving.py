"""gws.serving: `python -m gws serve` in one process, and what it says of modules that cannot be served."""

from __future__ import annotations

import signal
import ssl
import sys
from argparse import ArgumentParser
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import gevent
import pytest
import trustme
from programs import PATIENCE, ROOT, python

import gws
import gws.client
from gws import server, serving
from gws.errors import ConnectionClosed
from gws.server import Server

pytestmark = pytest.mark.usefixtures("deadline")

CHAT = """
from gws import server
from gws.websocket import write

lobby, thing = server.Server(), 7
server.on("message", write)
lobby.on("message", lambda fd, msg: fd.write("lobby: " + msg))
"""
QUIET = "from gws import server"
NO_GUNICORN = {"gunicorn.py": "raise ImportError('there is none here')"}


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts `python -m gws serve`, where there are these files."""
    started = []

    def start(*args, files=(), port="0"):
        for name, source in {"chat.py": CHAT, "quiet.py": QUIET, **dict(files)}.items():
            (tmp_path / name).write_text(source)
        path = f"{tmp_path}:{Path(gws.__file__).parent.parent}"
        program = python("-m", "gws", "serve", *args, "--port", port, environment={"PYTHONPATH": path})
        started.append(program)
        return program.__enter__()

    with gevent.Timeout(PATIENCE):
        yield start
    for program in started:
        program.__exit__()


def where(program):
    """Return the URL where it listens, once it says so."""
    while not (line := program.read_line()).startswith("listening on "):
        assert line, program.said
    return line.split()[-1]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_program_that_listens_itself_is_served_all_the_same(serve, processes):
    """Its options hold, unless the command line says otherwise; where to listen is the command line's affair."""
    source = CHAT + "server.listen('192.0.2.1', 1, max_message=10, protocols=['chat'], ping_interval=7)"
    url = where(serve("chat", "--workers", processes, "--ping-interval", "9", files={"chat.py": source}))
    client = gws.client.connect(url, protocols=["chat"])
    assert client.fd.protocol == "chat"
    client.write("more than ten")
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert end.value.code == 1009


def test_what_a_program_says_and_what_the_command_line_does(monkeypatch):
    module = ModuleType("registers")
    module.mine = Server()
    monkeypatch.setitem(sys.modules, "registers", module)
    parser = ArgumentParser()
    serving.arguments(parser)
    with server.noting() as noted:
        module.mine.listen("", 1, max_message=10, ping_interval=7, certfile="x.pem")
    monkeypatch.setattr(serving.server, "noting", lambda: nullcontext(noted))
    served, options = serving._start(parser.parse_args(["registers:mine", "--ping-interval", "9", "--no-compression"]))
    assert served is module.mine
    assert options == {"max_message": 10, "ping_interval": 9, "certfile": "x.pem", "compression": None}


@pytest.mark.parametrize(("spec", "answer"), [("chat", "hello"), ("chat:lobby", "lobby: hello")])
def test_one_process_needs_no_gunicorn(serve, spec, answer):
    program = serve(spec, files=NO_GUNICORN)
    client = gws.client.connect(where(program))
    client.write("hello")
    assert client.read() == answer
    program.send_signal(signal.SIGTERM)
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert end.value.code == 1001
    assert program.wait() == 0
    assert "Traceback" not in program.said


def test_options_are_the_server_s(serve, tmp_path):
    authority, pem = trustme.CA(), tmp_path / "cert.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    url = where(serve("chat", "--certfile", pem, "--max-message", "10", "--protocol", "chat"))
    assert url.startswith("wss://127.0.0.1:")
    client = gws.client.connect(url.replace("127.0.0.1", "localhost"), ssl=context, protocols=["chat"])
    assert client.fd.protocol == "chat"
    client.write("more than ten")
    with pytest.raises(ConnectionClosed) as end:
        client.read()
    assert end.value.code == 1009


def test_a_unix_socket_is_removed_in_the_end(serve, tmp_path):
    path = tmp_path / "chat.sock"
    program = serve("chat", "--path", path)
    assert where(program) == str(path)
    client = gws.client.connect("ws://localhost", path=str(path))
    client.write("hello")
    assert client.read() == "hello"
    client.close()
    assert program.stop() == 0
    assert not path.exists()


WRONG = [  # what is asked, the exit status, what is told
    (["nowhere"], 1, "gws: No module named 'nowhere'"),
    (["quiet"], 2, "quiet registers no handler on gws.server; is it quiet:NAME"),
    (["chat:lounge"], 2, "chat:lounge is not there"),
    (["chat:thing"], 2, "chat:thing is a int, no Server"),
    (["chat:"], 2, "expected MODULE or MODULE:NAME, not 'chat:'"),
    ([":lobby"], 2, "expected MODULE or MODULE:NAME, not ':lobby'"),
    (["chat", "--workers", "0"], 2, "--workers must be at least 1, not 0"),
    (["chat", "--graceful-timeout", "nan"], 2, "--graceful-timeout must be a number of seconds, not nan"),
    (["chat", "--graceful-timeout", "inf"], 2, "--graceful-timeout must be a number of seconds, not inf"),
    (["chat", "--keyfile", "x"], 2, "--keyfile is of no use without --certfile"),
    (["chat", "--certfile", "missing.pem"], 1, "gws: No such file or directory"),
    (["chat", "--workers", "2", "--reuse-port"], 2, "--reuse-port needs a --port"),
    (["chat", "--workers", "2", "--max-message", "0"], 2, "max_message must be a positive number"),
    (["nowhere", "--workers", "2"], 4, "gws: No module named 'nowhere'"),
    (["quiet", "--workers", "2"], 4, "gws: quiet registers no handler"),
]


@pytest.mark.parametrize(("args", "status", "told"), WRONG)
def test_what_cannot_be_served(serve, args, status, told):
    program = serve(*args)
    assert program.wait() == status
    assert told in program.said
    assert "Traceback" not in program.said


def test_more_than_one_process_without_gunicorn(serve):
    program = serve("chat", "--workers", "2", files=NO_GUNICORN)
    assert program.wait() == 1
    assert program.said == (
        "gws: there is none here; more than one process takes gunicorn: pip install 'gevent-gws[gunicorn]'\n"
    )


def test_what_a_module_raises_is_shown(serve):
    program = serve("broken", files={"broken.py": "1 / 0"})
    assert program.wait() == 1
    assert "ZeroDivisionError" in program.said


def test_load(monkeypatch):
    module = ModuleType("registers")
    module.mine = Server()
    monkeypatch.setitem(sys.modules, "registers", module)
    monkeypatch.setattr(server, "default", Server())
    assert serving.load("registers:mine") == (module.mine, {})
    with pytest.raises(ValueError, match="no handler"):
        serving.load("registers")
    server.default.on("message", print)
    assert serving.load("registers") == (server.default, {})


def test_every_option_of_the_command_line_is_one_of_the_server():
    parser = ArgumentParser()
    serving.listen_arguments(parser)
    given = serving.options(parser.parse_args([]))
    assert server.Options(**given) == server.Options()


def test_the_examples_can_be_served():
    for name in ("echoserver", "chat"):
        with python(
            "-m", "gws", "serve", name, "--port", "0", environment={"PYTHONPATH": path_of_examples()}
        ) as program:
            with gevent.Timeout(PATIENCE):
                gws.client.connect(where(program)).close()
            assert program.stop() == 0


def path_of_examples():
    return f"{ROOT / 'examples'}:{Path(gws.__file__).parent.parent}"
