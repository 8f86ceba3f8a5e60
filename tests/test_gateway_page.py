"""The gateway example: two windows of a real browser in one meadow, and what it does with those who misbehave.

The gateway runs in a process of its own; what blocks here blocks nobody.
"""

from __future__ import annotations

import importlib.util
import json
import math

import gevent
import pytest
from programs import PATIENCE, ROOT
from test_browser import DESK, PHONE, Window, browser, page, serving  # noqa: F401  # fixtures, two of them
from test_examples import fetch

import gws.client
from gws.errors import ConnectionClosed

FILES = sorted(path for path in (ROOT / "examples" / "gateway").iterdir() if path.is_file())


@pytest.fixture
def meadow():
    """The gateway, as it stands."""
    with serving("examples/gateway/main.py") as program:
        yield program


@pytest.fixture
def connect(meadow):
    """Return a function that lets somebody in, under a name if there is one; what it opened is closed in the end."""
    opened = []

    def come(name=None):
        client = gws.client.connect("127.0.0.1", meadow.port)
        opened.append(client)
        if name is not None:
            client.write(json.dumps({"name": name}))
        return client

    with gevent.Timeout(PATIENCE):
        yield come
        for client in opened:
            client.close()


def hear(client, wanted):
    """Return the first state for which `wanted(state)` holds."""
    while True:
        said = json.loads(client.read())
        if "dots" in said and wanted(said):
            return said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".py"], ids=lambda path: path.name)
def test_the_page_is_of_one_piece(path):
    text = path.read_text(encoding="utf-8")
    for outside in ("innerHTML", "//www", "url(", "@import", "https:"):
        assert outside not in text.replace('xmlns="http://www', "")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.html", "text/html"),
        ("/style.css", "text/css"),
        ("/dot.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
        ("/main.py", None),
        ("/../gateway/main.py", None),
        ("/nothing", None),
    ],
)
def test_the_files_of_the_page_and_no_others_are_served(meadow, path, kind):
    status, head, _ = fetch(meadow.port, path)
    assert status == (404 if kind is None else 200)
    if kind is not None:
        assert f"Content-Type: {kind}; charset=utf-8\r\n" in head
        assert "Content-Security-Policy: default-src 'self';" in head


# --------------------------------------------------------------------------------------------- the world, by its clock


class Over(Exception):
    """The time is up."""


class Sky:
    """A world whose clock is ours; `told` is what it has said, and when."""

    def __init__(self, monkeypatch):
        spec = importlib.util.spec_from_file_location("world", ROOT / "examples" / "gateway" / "world.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.now, self.early, self.end, self.told, self.heard = 1000.01, 0, 0, [], lambda said: None
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.skynet, "fork", lambda func: None)
        monkeypatch.setattr(module.skynet, "sleep", self.sleep)
        monkeypatch.setattr(module.websocket, "broadcast", self.broadcast)
        self.world = module.World()

    def sleep(self, seconds):
        assert 0.005 < seconds <= 0.055
        self.now += seconds - self.early
        if self.now > self.end:
            raise Over

    def broadcast(self, fds, text):
        said = json.loads(text)
        self.told.append((self.now, said))
        if "dots" in said:
            self.heard(said)

    def run(self, seconds):
        self.end = self.now + seconds
        with pytest.raises(Over):
            self.world.run()


@pytest.fixture
def sky(monkeypatch):
    return Sky(monkeypatch)


@pytest.mark.parametrize("early", [0, 0.001])
def test_twenty_states_a_second(sky, early):
    sky.early = early
    sky.run(2.97)
    assert [when + early for when, _ in sky.told] == pytest.approx([1000.05 + tick / 20 for tick in range(59)])


def test_whoever_catches_enough_lights_has_won(sky):
    def chase(said):
        (dot,) = said["dots"]
        assert dot[:2] == [you.number, "Ada"]
        scores.append(dot[4])
        if said["winners"]:
            raise Over
        sky.world.steer(you, *min(said["lights"].values(), key=lambda light: math.dist(light, dot[2:4])))

    you, scores, sky.heard = Nobody(7), [], chase
    sky.world.enter(you, "Ada")
    sky.run(600)
    assert sky.told[-1][1]["winners"] == ["Ada"]
    assert max(scores) >= sky.told[0][1]["goal"] - 2  # two may be within reach at once
    assert scores[-1] == 0  # and it begins anew


class Nobody:
    """Who has a number, and no connection."""

    def __init__(self, number):
        self.number = number


# ------------------------------------------------------------------------------------------------------- by hand


def test_everybody_is_told_where_everybody_is(connect):
    ada, bob = connect("Ada"), connect("  Bob\n the  Builder ")
    you = json.loads(ada.read())["you"]
    said = hear(ada, lambda said: len(said["dots"]) == 2)
    assert sorted(name for _, name, *_ in said["dots"]) == ["Ada", "Bob the Builder"]
    assert len(said["lights"]) == 12
    ada.write(json.dumps({"to": [0, 1]}))
    hear(bob, lambda said: [you, "Ada", 0, 1] in [dot[:4] for dot in said["dots"]])
    ada.close()
    hear(bob, lambda said: len(said["dots"]) == 1)


@pytest.mark.parametrize(
    "words",
    ["", "{", "[]", "null", '{"name": 7}', '{"name": ""}', '{"name": "\\u0007"}', '{"to": [0, 0]}', b"\xff", "[" * 999],
)
def test_whoever_gives_no_name_is_shown_out(connect, words):
    assert end_of(connect(), words) == (1007, 'expected {"name": "..."} in JSON')


@pytest.mark.parametrize(
    "to", ["0", '"ab"', "[]", "[0]", "[0, 0, 0]", "[NaN, 0]", "[0, 1.01]", "[0, -1e999]", "{}", '["0", "0"]', "null"]
)
def test_whoever_goes_nowhere_is_shown_out(connect, to):
    assert end_of(connect("Ada"), f'{{"to": {to}}}') == (1007, 'expected {"to": [x, y]} in JSON')


def test_of_one_address_there_are_only_so_many(connect):
    for _ in range(32):
        connect()
    assert end_of(connect()) == (1008, "you are here 32 times already")


def end_of(client, *words):
    """Say something, and return how it ends."""
    for each in words:
        client.write(each)
    with pytest.raises(ConnectionClosed) as end:
        while True:
            client.read()
    return end.value.code, end.value.reason


# -------------------------------------------------------------------------------------------------------- a browser


class Player(Window):
    """A window in the meadow."""

    def enter(self, name):
        self.wait(True, "return document.querySelector('#door').open")
        self.type("name", name + "\n")

    def wait_for_scores(self, *names):
        self.wait(sorted(names), "return [...document.querySelectorAll('#list bdi')].map(e => e.textContent).sort()")

    def wait_for_place(self, name, x, y):
        """Wait until somebody is about there."""
        code = """
            const dot = [...dots.values()].find(dot => dot.name === arguments[0]);
            return !!dot && Math.hypot(dot.to[0] - arguments[1], dot.to[1] - arguments[2]) < .08
        """
        self.wait(True, code, name, x, y)

    def point(self, x, y):
        """Point to a place in the world, as a mouse does."""
        code = """
            const at = {clientX: view.left + arguments[0] * view.scale, clientY: view.top + arguments[1] * view.scale};
            document.querySelector("#world").dispatchEvent(new PointerEvent("pointermove", at));
        """
        self.run(code, x, y)


def test_two_windows_in_one_meadow(page, meadow):  # noqa: F811
    ada = Player(page, meadow.port)
    ada.enter("Ada")
    ada.wait_for_scores("Ada")
    bob = Player(page, meadow.port, PHONE)
    bob.enter("Bob")
    bob.wait_for_scores("Ada", "Bob")
    bob.point(1, 0)  # a corner: where the view follows, another place of the world comes under the pointer
    ada.wait_for_scores("Ada", "Bob")
    ada.wait_for_place("Bob", 1, 0)
    ada.point(0, 1)
    bob.wait_for_place("Ada", 0, 1)
    bob.wait(12, "return lights.size")
    page.close()  # Bob's window
    ada.wait_for_scores("Ada")
    assert page.get_log("browser") == []


def test_the_arrow_keys(page, meadow):  # noqa: F811
    ada = Player(page, meadow.port)
    ada.enter("Ada")
    ada.wait_for_scores("Ada")
    ada.run("for (const code of ['ArrowLeft', 'KeyW']) dispatchEvent(new KeyboardEvent('keydown', {code}))")
    ada.wait_for_place("Ada", 0, 0)
    ada.run("for (const code of ['ArrowLeft', 'KeyW']) dispatchEvent(new KeyboardEvent('keyup', {code}))")
    ada.run("dispatchEvent(new KeyboardEvent('keydown', {code: 'ArrowDown'}))")
    ada.wait_for_place("Ada", 0, 1)


def test_a_restart_leads_to_a_reconnection(page):  # noqa: F811
    with serving("examples/gateway/main.py") as program:
        ada = Player(page, program.port)
        ada.enter("Ada")
        ada.wait_for_scores("Ada")
    ada.wait("The connection is lost. Trying again…", "return document.querySelector('#say').textContent")
    with serving("examples/gateway/main.py", port=program.port):
        ada.wait("", "return document.querySelector('#say').textContent")
        ada.wait_for_scores("Ada")


def test_a_name_that_is_refused_is_asked_for_again(page, meadow):  # noqa: F811
    ada = Player(page, meadow.port)
    ada.enter("\u200b")
    ada.wait('The meadow said: expected {"name": "..."} in JSON', "return document.querySelector('#say').textContent")
    ada.run("document.querySelector('#name').value = ''")
    ada.enter("Ada")
    ada.wait_for_scores("Ada")
    ada.wait("", "return document.querySelector('#say').textContent")


@pytest.mark.parametrize("size", [PHONE, DESK, (320, 568)], ids=str)
def test_the_page_fits(page, meadow, size):  # noqa: F811
    """Nothing sticks out, and what is ours is in view, wherever we go."""
    ada = Player(page, meadow.port, size)
    assert_named(page, "dialog, input, button")
    ada.enter("W" * 16)
    ada.wait_for_scores("W" * 16)
    assert_named(page, "canvas, section")
    ada.wait(True, "return document.documentElement.scrollWidth <= innerWidth")
    ada.wait(True, "return document.documentElement.scrollHeight <= innerHeight")
    for corner in ((0, 0), (1, 1)):
        ada.point(*corner)
        ada.wait_for_place("W" * 16, *corner)
        seen = """
            const [x, y] = place(dots.get(you));
            return x >= 0 && y >= 0 && x <= innerWidth && y <= innerHeight
        """
        ada.wait(True, seen)


def assert_named(page, selector):  # noqa: F811
    """Everything has a name for those who listen."""
    for element in page.find_elements("css selector", selector):
        assert element.accessible_name, element.get_attribute("outerHTML")
