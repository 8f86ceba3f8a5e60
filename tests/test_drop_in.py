"""`gws.drop_in`: which package a name leads to, and programs of the older libraries that run unchanged."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import signal
import sys
from pathlib import Path

import gevent
import pytest
from programs import PATIENCE, free_port, python

import gws.client
from gws import drop_in
from gws.drop_in import launching
from gws.errors import ConnectionClosed

pytestmark = pytest.mark.usefixtures("patience")

OLDER = Path(__file__).parent / "older"

#: Every module that a program may import, and what it is to find there.
NAMES = {
    "geventwebsocket": "WebSocketServer WebSocketApplication Resource WebSocketError get_version VERSION __version__",
    "geventwebsocket.handler": "WebSocketHandler Client",
    "geventwebsocket.websocket": "WebSocket Stream Header MSG_SOCKET_DEAD MSG_ALREADY_CLOSED MSG_CLOSED",
    "geventwebsocket.exceptions": "WebSocketError ProtocolError FrameTooLargeException",
    "geventwebsocket.resource": "WebSocketApplication Resource",
    "geventwebsocket.server": "WebSocketServer",
    "geventwebsocket.gunicorn.workers": "GeventWebSocketWorker",
    "geventwebsocket.protocols.base": "BaseProtocol",
    "geventwebsocket.protocols.wamp": "WampProtocol export_rpc serialize Prefixes RemoteProcedures Channels",
    "geventwebsocket.logging": "create_logger",
    "geventwebsocket.utf8validator": "Utf8Validator",
    "geventwebsocket.utils": "get_version",
    "gevent_ws": "WebSocketHandler WebSocket",
    "simple_websocket": "Server Client AioServer AioClient ConnectionClosed ConnectionError",
    "simple_websocket.ws": "Server Client Base",
    "simple_websocket.aiows": "AioServer AioClient",
    "simple_websocket.errors": "ConnectionClosed ConnectionError SimpleWebsocketError",
}

ATTRIBUTES = {
    ("geventwebsocket.handler", "WebSocketHandler"): (
        "websocket_class websocket prevent_wsgi_call SUPPORTED_VERSIONS GUID logger active_client run_websocket "
        "run_application upgrade_websocket upgrade_connection start_response _prepare_response"
    ),
    ("geventwebsocket.websocket", "WebSocket"): (
        "OPCODE_CONTINUATION OPCODE_TEXT OPCODE_BINARY OPCODE_CLOSE OPCODE_PING OPCODE_PONG receive read_message "
        "read_frame send send_frame close handle_close handle_ping handle_pong closed stream environ handler "
        "current_app origin protocol version path logger settimeout"
    ),
    ("gevent_ws", "WebSocket"): (
        "receive receive_nowait send close closed status set_max_message_length path origin version protocol socket"
    ),
    ("simple_websocket", "Server"): "accept connected receive send close choose_subprotocol handshake",
    ("simple_websocket", "Client"): "connect connected receive send close",
}


@pytest.fixture
def patience():
    """A test that hangs fails; programs take their time to start."""
    with gevent.Timeout(3 * PATIENCE):
        yield


@pytest.fixture(autouse=True)
def uninstalled():
    """Leave nothing installed, and the modules of the real packages where they were."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in drop_in.NAMES}
    for name in before:
        del sys.modules[name]
    yield
    drop_in.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] in drop_in.NAMES]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Return a function that installs a package of this name, which is not ours."""

    def install(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("REAL = True\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_under_a_name(name):
    drop_in.install(force=True)
    module = importlib.import_module(name)
    assert [missing for missing in NAMES[name].split() if not hasattr(module, missing)] == []
    assert module is importlib.import_module(f"gws.drop_in.{name}")
    assert module.__spec__.name == f"gws.drop_in.{name}"


@pytest.mark.parametrize(("module", "cls"), ATTRIBUTES)
def test_what_a_class_has(module, cls):
    drop_in.install(force=True)
    found = getattr(importlib.import_module(module), cls)
    assert [missing for missing in ATTRIBUTES[module, cls].split() if not hasattr(found, missing)] == []


def test_what_nobody_has_is_not_found():
    drop_in.install(force=True)
    with pytest.raises(ModuleNotFoundError, match=r"geventwebsocket\.nothing"):
        importlib.import_module("geventwebsocket.nothing")


def test_a_package_that_is_there_stays_what_it_is(real):
    real("gevent_ws")
    assert "gevent_ws" not in drop_in.install()
    assert importlib.import_module("gevent_ws").REAL
    assert drop_in.really_there("gevent_ws")
    assert importlib.util.find_spec("geventwebsocket") is not None


def test_what_a_real_package_lacks_is_not_added(real):
    real("geventwebsocket")
    drop_in.install()
    importlib.import_module("geventwebsocket")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("geventwebsocket.handler")


def test_force(real):
    real("gevent_ws")
    assert drop_in.install(force=True) == drop_in.NAMES
    assert importlib.import_module("gevent_ws").__name__ == "gws.drop_in.gevent_ws"


def test_force_comes_too_late_for_what_is_imported(real):
    real("gevent_ws")
    importlib.import_module("gevent_ws")
    with pytest.raises(RuntimeError, match="gevent_ws was imported before"):
        drop_in.install(force=True)
    assert drop_in.installed() == ()
    assert drop_in.install("geventwebsocket", force=True) == ("geventwebsocket",)


def test_one_name_is_preferred_to_the_real_package(real):
    real("gevent_ws")
    real("simple_websocket")
    drop_in.install()
    drop_in.prefer("simple_websocket")
    drop_in.prefer("simple_websocket")
    assert importlib.import_module("simple_websocket").__name__ == "gws.drop_in.simple_websocket"
    assert importlib.import_module("gevent_ws").REAL
    assert importlib.util.find_spec("geventwebsocket") is not None
    assert sorted(drop_in.installed()) == sorted(drop_in.NAMES)
    drop_in.uninstall()
    assert drop_in.installed() == ()
    with pytest.raises(ValueError, match="no stand-in for websockets"):
        drop_in.prefer("websockets")


def test_some_of_the_names(real):
    assert drop_in.install("gevent_ws") == ("gevent_ws",) == drop_in.installed()
    importlib.import_module("gevent_ws")
    assert importlib.util.find_spec("geventwebsocket") is None
    with pytest.raises(ValueError, match="no stand-in for websockets"):
        drop_in.install("websockets")


def test_again_and_away():
    drop_in.install(force=True, origins=None, max_message=5)
    found = importlib.import_module("gevent_ws")
    assert drop_in.options == {"origins": None, "max_message": 5}
    drop_in.install(force=True)
    assert drop_in.options == {"origins": "*"}
    assert importlib.import_module("gevent_ws") is found
    assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1
    drop_in.uninstall()
    assert importlib.util.find_spec("gevent_ws") is None


def test_options_that_there_are_not():
    with pytest.raises(TypeError):
        drop_in.install(no_such_option=1)
    with pytest.raises(ValueError, match="max_message"):
        drop_in.install(max_message=-1)
    assert drop_in.installed() == ()


def test_errors_go_through_pickle():
    drop_in.install(force=True)
    error = importlib.import_module("geventwebsocket").WebSocketError("x")
    assert type(pickle.loads(pickle.dumps(error))) is type(error)


def test_install_loads_no_gevent():
    code = (
        "import sys, gws.drop_in\n"
        "gws.drop_in.install(force=True)\n"
        "import importlib.util; assert importlib.util.find_spec('geventwebsocket')\n"
        "print(*[name for name in sys.modules if name.partition('.')[0] in ('gevent', 'geventwebsocket')])\n"
    )
    with python("-c", code) as program:
        assert program.wait() == 0
    assert program.said.strip() == ""


def test_a_program_starts_without_gevent():
    with drop(
        "--force", "--", "-c", "import sys; print([name for name in ('gevent', 'socket') if name in sys.modules])"
    ) as program:
        assert program.wait() == 0
    assert program.said == "[]\n"


def test_what_is_wrong_at_the_start_ends_the_program():
    with drop("--force", "--", "-c", "pass", environment={"GWS_DROP_IN": ""}) as program:
        assert program.wait() == 0, "a value from outside is nothing that counts"
    folder = Path(drop_in.__file__).parent / "startup"
    root = str(Path(gws.__file__).parent.parent)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), root]), "GWS_DROP_IN": "nonsense"}
    with python("-c", "print('it runs')", environment=environment) as program:
        assert program.wait() == 1
    assert "cannot start with gws" in program.said
    assert "it runs" not in program.said


# ---------------------------------------------------------------------------------------------- the command line


def drop(*words, **options):
    return python("-m", "gws", "drop-in", *words, **options)


ALONE = ("--only", "geventwebsocket")  # simple-websocket really is there: flask-sock needs it
WHERE = "import geventwebsocket, sys; print(geventwebsocket.__name__, sys.argv)"


def test_a_program_on_the_command_line():
    with drop(*ALONE, "--", "-c", WHERE, "more", "--words") as program:
        assert program.wait() == 0
    assert program.said == "gws.drop_in.geventwebsocket ['-c', 'more', '--words']\n"


def test_a_file(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(WHERE)
    with drop(*ALONE, "--", file, "x") as program:
        assert program.wait() == 0
    assert program.said == f"gws.drop_in.geventwebsocket ['{file}', 'x']\n"


def test_a_module():
    with drop(
        *ALONE, "--", "-m", "timeit", "-n1", "-r1", "import geventwebsocket; print(geventwebsocket.__name__)"
    ) as program:
        assert program.wait() == 0
    assert program.lines[0] == "gws.drop_in.geventwebsocket\n"


def test_without_dashes_and_with_a_pythons_name():
    with drop(*ALONE, "python", "-c", WHERE) as program:
        assert program.wait() == 0
    assert program.said == "gws.drop_in.geventwebsocket ['-c']\n"


def test_the_exit_status_is_the_programs():
    with drop("--", "-c", "raise SystemExit(7)") as program:
        assert program.wait() == 7


def test_children_are_over_gws_as_well():
    code = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {WHERE!r}]))"
    with drop(*ALONE, "--", "-c", code) as program:
        assert program.wait() == 0
    assert program.said == "gws.drop_in.geventwebsocket ['-c']\n"


def test_options_reach_the_program():
    code = "import gws.drop_in as d; print(sorted(d.options.items(), key=str), d.installed())"
    words = "--origin http://a --origin http://b --max-message 5 --ping-interval 0 --no-compression --only gevent_ws"
    with drop(*words.split(), "--", "-c", code) as program:
        assert program.wait() == 0
    assert program.said == (
        "[('compression', None), ('max_message', 5), ('origins', ['http://a', 'http://b']), ('ping_interval', None)] "
        "('gevent_ws',)\n"
    )


@pytest.mark.parametrize(
    ("words", "origins"), [([], "*"), (["--same-origin"], None), (["--origin", "*"], ["*"])], ids=str
)
def test_origins_on_the_command_line(words, origins):
    with drop(*ALONE, *words, "--", "-c", "import gws.drop_in as d; print(d.options['origins'])") as program:
        assert program.wait() == 0
    assert program.said == f"{origins}\n"


def test_a_real_package_is_told_of(tmp_path):
    (tmp_path / "gevent_ws.py").write_text("")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import gevent_ws; print(gevent_ws.__file__)"
    root = str(Path(gws.__file__).parent.parent)
    environment = {"PYTHONPATH": os.pathsep.join([path, root])}
    with drop("--only", "gevent_ws", "--", "-c", code, environment=environment) as program:
        assert program.wait() == 0
    assert program.said.splitlines() == [
        "gws: gevent_ws is really installed, and stays what it is (--force: gws instead)",
        str(tmp_path / "gevent_ws.py"),
    ]
    with drop("--force", "--only", "gevent_ws", "--", "-c", code, environment=environment) as program:
        assert program.wait() == 0
    assert program.said.splitlines() == [str(Path(drop_in.__file__).parent / "gevent_ws.py")]


def test_a_sitecustomize_that_was_there_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import gevent_ws; print('customized', gevent_ws.__name__)")
    root = str(Path(gws.__file__).parent.parent)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    # gws itself starts with it, too, without a stand-in: it fails there, as Python says.
    with drop("--force", "--", "-c", "pass", environment=environment, stderr=False) as program:
        assert program.wait() == 0
    assert program.said == "customized gws.drop_in.gevent_ws\n"


def test_gws_need_not_be_installed_for_the_program(tmp_path):
    """As long as it lies where it lies: the program's directory is not gws's."""
    file = tmp_path / "program.py"
    file.write_text(WHERE)
    code = f"import sys; sys.path.insert(0, {str(Path(gws.__file__).parent.parent)!r}); from gws.__main__ import main; "
    code += f"main(['drop-in', '--force', '--', {str(file)!r}])"
    with python("-c", code, environment={"PYTHONPATH": ""}) as program:
        assert program.wait() == 0
    assert program.said.startswith("gws.drop_in.geventwebsocket ")


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ([], "what is to be run?", 2),
        (["--"], "what is to be run?", 2),
        (["--", "no-such-program"], "no-such-program", 1),
        (["--max-message", "-1", "--", "-c", ""], "max_message", 2),
        (["--only", "websockets", "--", "-c", ""], "websockets", 2),
    ],
    ids=str,
)
def test_wrong_use(words, said, status):
    with drop(*words) as program:
        assert program.wait() == status
    assert said in program.said


def test_what_is_executed(tmp_path, monkeypatch):
    plain, executable = tmp_path / "plain.py", tmp_path / "executable"
    plain.write_text("")
    executable.write_text("")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launching._command([str(plain), "x"]) == [sys.executable, str(plain), "x"]
    assert launching._command(["-m", "x"]) == [sys.executable, "-m", "x"]
    assert launching._command(["executable"]) == [str(executable)]
    assert launching._command(["python"])[0].startswith(str(Path(sys.executable).parent))


# ---------------------------------------------------------------------------------------------- unchanged programs

FLASK_SOCK = {
    "werkzeug": ("gws.drop_in.simple_websocket.ws werkzeug", ["{file}", "{port}"]),
    "pywsgi": ("gws.drop_in.simple_websocket.ws gevent", ["{file}", "{port}", "pywsgi"]),
    "flask run": (
        "gws.drop_in.simple_websocket.ws werkzeug",
        ["-m", "gevent.monkey", "{flask}", "--app", "{file}", "run", "--port", "{port}"],
    ),
    "gunicorn -k gevent": (
        "gws.drop_in.simple_websocket.ws gunicorn",
        ["gunicorn", "-k", "gevent", "-b", "127.0.0.1:{port}", "--chdir", "{folder}", "echo_flask_sock:app"],
    ),
    "gunicorn -k gws.worker.Worker": (
        "gws.drop_in.simple_websocket.ws gevent",
        ["gunicorn", "-k", "gws.worker.Worker", "-b", "127.0.0.1:{port}", "--chdir", "{folder}", "echo_flask_sock:app"],
    ),
}


def words_of(command, file, port):
    flask = Path(sys.executable).parent / "flask"
    return [word.format(file=file, folder=OLDER, port=port, flask=flask) for word in command]


def talk(port, path, first, **options):
    client = gws.client.connect(f"ws://127.0.0.1:{port}{path}", **options)
    assert client.read() == first
    for message in ("text", b"bytes", "x" * 100_000):
        client.write(message)
        assert client.read() == message
    return client


@pytest.mark.parametrize("server", FLASK_SOCK)
def test_flask_sock(server):
    says, command = FLASK_SOCK[server]
    port = free_port()
    with drop("--force", "--", *words_of(command, OLDER / "echo_flask_sock.py", port)) as program:
        program.wait_until_it_listens(port)
        agreed = None if server == "gunicorn -k gws.worker.Worker" else "b"  # there the worker has shaken hands
        origin = (
            None if "Worker" in server else "http://elsewhere"
        )  # gws's own worker wants to know where pages come from
        client = talk(port, "/echo?name=x", f"{says} {agreed} x", protocols=["a", "b"], origin=origin)
        client.write("close")
        with pytest.raises(ConnectionClosed) as end:
            client.read()
        assert end.value.code == 1000
        again = talk(port, "/echo", f"{says} None None")
        again.close(1000)
        assert again.fd.code == 1000


@pytest.fixture(scope="module")
def old_flask():
    """Return a Python that has flask-sockets, which needs Flask 1; .ci/run makes one."""
    path = os.environ.get("GWS_FLASK_SOCKETS")
    if path is None and os.environ.get("CI"):
        pytest.fail("GWS_FLASK_SOCKETS must name a Python with flask-sockets 0.2.1 and Flask 1 (see .ci/run)")
    if path is None:
        pytest.skip("GWS_FLASK_SOCKETS names no Python with flask-sockets 0.2.1 and Flask 1 (see .ci/run)")
    return path


FLASK_SOCKETS = {
    "pywsgi": ["{python}", "{file}", "{port}"],
    "gunicorn": ["{python}", "-m", "gunicorn", "-k", "flask_sockets.worker", "-b", "127.0.0.1:{port}", "--chdir", "{folder}", "echo_flask_sockets:app"],
}  # fmt: skip


@pytest.mark.parametrize("server", FLASK_SOCKETS)
def test_flask_sockets(old_flask, server):
    port, file = free_port(), OLDER / "echo_flask_sockets.py"
    words = [word.format(python=old_flask, file=file, folder=OLDER, port=port) for word in FLASK_SOCKETS[server]]
    with drop("--force", "--", *words) as program:
        program.wait_until_it_listens(port)
        talk(port, "/echo", "gws.drop_in.geventwebsocket.websocket", origin="http://elsewhere").close()
        assert "Traceback" not in program.said


@pytest.mark.parametrize("library", ["geventwebsocket.websocket", "simple_websocket"])
def test_engineio(library):
    name = library.partition(".")[0]
    port, more = free_port(), ["simple"] if name == "simple_websocket" else []
    with drop("--force", "--only", name, "--", OLDER / "echo_engineio.py", port, *more) as program:
        program.wait_until_it_listens(port)
        client = gws.client.connect(f"ws://127.0.0.1:{port}/engine.io/?EIO=4&transport=websocket")
        assert client.read().startswith("0{")
        client.write("4hello")
        while (message := client.read()) == "2":
            client.write("3")
        assert message == "4hello"
        assert program.read_line() == f"connect gws.drop_in.{library}\n"
        if more:
            client.close()
            return
        # From here on no ping is answered: a peer that is half open.   It is noticed, and closed.
        with pytest.raises(ConnectionClosed):
            while True:
                client.read()
        assert program.read_line().startswith("disconnect ")


def test_gunicorns_worker():
    port = free_port()
    worker = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"
    with drop("--", "gunicorn", "-k", worker, "-b", f"127.0.0.1:{port}", "--chdir", OLDER, "plain_app:app") as program:
        program.wait_until_it_listens(port)
        clients = [
            talk(port, "/", "gws.drop_in.geventwebsocket.websocket", origin="http://elsewhere") for _ in range(3)
        ]
        program.send_signal(signal.SIGTERM)
        for client in clients:
            with pytest.raises(ConnectionClosed) as end:
                client.read()
            assert end.value.code == 1001
        assert program.wait() == 0
        assert "Traceback" not in program.said
