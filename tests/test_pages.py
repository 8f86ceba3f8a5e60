"""The pages of docs/ are true: every program in them runs as it reads, and what they name is there."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shlex
import signal

import gevent
import pytest
from pages import PAGES, ROOT, blocks, headings, links, prose
from programs import PATIENCE, free_port, python

import gws.client
import gws.server

BLOCKS = [
    pytest.param(language, code, id=f"{page.relative_to(ROOT / 'docs')}-{number}")
    for page in PAGES
    for number, (language, code) in enumerate(blocks(page), 1)
]


def those(language, kind=lambda code: True):
    """Return the parameters of the blocks in a language, of a kind."""
    return [
        pytest.param(each.values[1], id=each.id)
        for each in BLOCKS
        if each.values[0] == language and kind(each.values[1])
    ]


def kind_of(code):
    """Tell a program that serves port 8888 from one that connects to it, and from one that does neither."""
    if "8888" not in code:
        return "alone"
    return "client" if re.search(r"\bconnect\(|ws://", code) else "server"


def run(code, port=0):
    # What is told of gevent-websocket runs on gws, under its name.
    before = "import gws.drop_in; gws.drop_in.install()\n" if "geventwebsocket" in code else ""
    return python("-c", before + code.replace("8888", str(port)).replace("8000", str(free_port())))


def test_every_language_is_known():
    known = {"python", "console", "ini"}
    assert {each.values[0] for each in BLOCKS} <= known, f"test_pages.py knows how to try {known}"


@pytest.mark.parametrize("code", those("python", lambda code: kind_of(code) == "server"))
def test_server(code):
    """It answers somebody who says hello, whatever else it wants to be told before."""
    port = free_port()
    with run(code, port) as program, gevent.Timeout(PATIENCE):
        program.wait_until_it_listens(port)
        client = gws.client.connect(f"ws://127.0.0.1:{port}/chat?token=secret", proxy=None)
        client.write("hello")
        assert client.read()
        client.close()
        assert program.stop() in (0, -signal.SIGTERM), program.said
    assert "Traceback" not in program.said


@pytest.mark.parametrize("code", those("python", lambda code: kind_of(code) == "client"))
def test_client(code):
    server = gws.server.Server()
    server.on("message", lambda fd, msg: fd.write(msg))
    server.start(port=0)
    try:
        with run(code, server.port) as program, gevent.Timeout(PATIENCE):
            assert program.wait() == 0, program.said
            assert "hello" in program.said
    finally:
        server.stop()


@pytest.mark.parametrize("code", those("python", lambda code: kind_of(code) == "alone"))
def test_program(code):
    """It ends by itself; what it prints is what a comment behind the print() says."""
    with run(code) as program, gevent.Timeout(PATIENCE):
        assert program.wait() == 0, program.said
    said = re.findall(r"^print\(.*\)  # (.*)$", code, re.M)
    assert program.said.split("\n")[: len(said)] == said or not said


def commands():
    """Return each line of the consoles, and the program above it."""
    found, program = [], ""
    for each in BLOCKS:
        language, code = each.values
        program = code if language == "python" else program
        if language == "console":
            found += [pytest.param(line, program, id=f"{each.id}: {line}") for line in code.splitlines()]
    return found


@pytest.mark.parametrize(("line", "program"), commands())
def test_command(line, program, tmp_path):
    """It does what it is told to."""
    words = shlex.split(line, comments=True)
    if words[:3] == ["python", "-m", "gws"]:
        COMMANDS[words[3]](words[1:], program, tmp_path)
    else:
        assert words[0] in COMMANDS, f"test_pages.py does not know how to try: {line}"
        COMMANDS[words[0]](words, program, tmp_path)


def try_connect(words, program, folder):
    server = gws.server.Server()
    server.start(port=0)
    try:
        with python(*[word.replace("8888", str(server.port)) for word in words]) as running:
            running.write_line("hello")
            running.close_input()
            assert running.wait() == 0, running.said
    finally:
        server.stop()


def try_serving(words, program, folder):
    """Serve; a module that is named holds the program above."""
    if words[0] == "gunicorn":
        # One worker: gunicorn loses a TERM that finds a second one at its very beginning, and waits for it.
        words = ["-m", *words, "--workers", "1"]
        (folder / "app.py").write_text(program)
    elif words[2] == "serve":
        words = [*words, "--graceful-timeout", "2"]
        (folder / f"{words[3]}.py").write_text(program)
    port = free_port()
    path = os.pathsep.join([str(folder), str(ROOT)])
    words = [word.replace("8888", str(port)) for word in words]
    with python(*words, environment={"PYTHONPATH": path}) as running, gevent.Timeout(PATIENCE):
        running.wait_until_it_listens(port)
        client = gws.client.connect("127.0.0.1", port)
        client.write("hello")
        assert client.read() == "hello"
        client.close()
        assert running.stop() == 0, running.said


def try_drop_in(words, program, folder):
    """Run the program above as it is, or nearly."""
    port = free_port()
    (folder / words[-1]).write_text(program.replace("8888", str(port)))
    with python(*words[:-1], folder / words[-1]) as running, gevent.Timeout(PATIENCE):
        running.wait_until_it_listens(port)
        client = gws.client.connect("127.0.0.1", port)
        client.write("hello")
        assert client.read() == "hello"
        client.close()
        assert running.stop() in (0, -signal.SIGTERM), running.said


def try_locust(words, program, folder):
    """See that its file and its options are there; test_examples.py has it run."""
    assert (ROOT / words[words.index("-f") + 1]).exists()


def try_telling(words, program, folder):
    with python(*words) as running:
        assert running.wait() == 0, running.said


COMMANDS = {
    "connect": try_connect,
    "drop-in": try_drop_in,
    "echo": try_serving,
    "serve": try_serving,
    "--version": try_telling,
    "gunicorn": try_serving,
    "locust": try_locust,
}


@pytest.mark.parametrize("code", those("ini"))
def test_a_unit_is_one(code):
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(code)
    assert shlex.split(unit["Service"]["ExecStart"])


# ------------------------------------------------------------------------------------------------------- names, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:", target):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        slugs = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for _, text in headings(found)]
        assert not anchor or anchor in slugs, target


def named():
    """Return what the pages and the change log call by its dotted name, and where."""
    pages = [page for page in PAGES if page.name not in ("security.md",)] + [ROOT / "CHANGELOG.md"]
    found = {(name, page.name) for page in pages for name in re.findall(r"`~?(gws(?:\.\w+)+)", prose(page))}
    return [pytest.param(name, id=f"{page}: {name}") for name, page in sorted(found)]


@pytest.mark.parametrize("name", named())
def test_what_is_named_is_there(name):
    found, (_, *rest) = gws, name.split(".")
    for word in rest:
        if not hasattr(found, word):  # a room that nobody has entered yet
            importlib.import_module(f"{found.__name__}.{word}")
        found = getattr(found, word)


def test_every_room_that_the_change_log_names_is_in_the_reference():
    told = re.findall(r"automodule:: gws\.(\w+)", "".join(page.read_text() for page in PAGES))
    rooms = {path.stem for path in (ROOT / "gws").glob("*.py")} | {
        path.parent.stem for path in (ROOT / "gws").glob("*/__init__.py")
    }
    named = set(re.findall(r"`gws\.(\w+)", (ROOT / "CHANGELOG.md").read_text())) & rooms
    assert named - set(told) == set(), "each of them wants an automodule in docs/reference"
