"""The console's page in a real browser: it shows, goes on showing, kills, finds, and comes back with the server.

The program that is looked at runs in a process of its own; what blocks here blocks nobody.
"""

from __future__ import annotations

import pytest
from test_browser import DESK, PHONE, Window, browser, page, serving  # noqa: F401  # fixtures, two of them


class Desk(Window):
    """A window with the console's page."""

    def rows(self, wanted, body="services"):
        """Wait until the page shows rows with these texts in their second column."""
        code = "return [...document.querySelectorAll(`#${arguments[0]} tr`)].map(row => row.children[1].textContent)"
        self.wait(wanted, code, body)

    def wait_until(self, code, *arguments):
        self.wait(True, f"return {code}", *arguments)


@pytest.fixture
def program():
    """A program with a gateway, two services that sleep, and a console."""
    with serving("tests/peers/inside.py") as running:
        yield running


EVIL = '<img src=x onerror="document.title=1">'
ROWS = ["Watchdog", "Gate", "Sleeper", EVIL, "Agent"]


def points(count):
    return f"points.length >= {count} && points.at(-1)[1] > 0 && points.at(-1)[5] !== null"


def test_the_page_shows_what_goes_on_and_goes_on_showing(page, program):  # noqa: F811
    desk = Desk(page, program.port)
    desk.rows(ROWS)
    desk.wait_until("document.querySelector('#state').textContent === 'live'")
    desk.wait_until(points(3))
    for chart in ("messages", "latency", "loop"):
        desk.wait_until("/L/.test(document.querySelector(`#${arguments[0]} path.one`).getAttribute('d'))", chart)
    desk.wait_until("[...document.querySelectorAll('#services details')].some(e => /sleep at/.test(e.textContent))")
    desk.wait_until("document.querySelectorAll('#connections tr').length === 2")
    desk.run("window.seen = document.querySelector('#connections td:nth-child(4)').textContent")
    desk.wait_until("document.querySelector('#connections td:nth-child(4)').textContent !== seen")
    desk.wait_until("document.title.startsWith('gws console')")
    assert page.find_elements("css selector", "main img") == []
    assert page.get_log("browser") == []


def test_the_page_kills_and_traces(page, program):  # noqa: F811
    desk = Desk(page, program.port)
    desk.rows(ROWS)
    desk.run("document.querySelectorAll('#services .trace')[4].click()")
    desk.wait_until("/Agent.message, sent by :[0-9a-f]+ Gate/.test(document.querySelector('#said').textContent)")
    desk.run("document.querySelector('#quiet').click()")
    desk.run("document.querySelectorAll('#services .kill')[2].click()")
    desk.wait_until("document.querySelector('#services .sure').textContent === 'Sure?'")
    desk.run("document.querySelector('#services .sure').click()")
    desk.rows([name for name in ROWS if name != "Sleeper"])
    desk.wait_until("/killed :0000000/.test(document.querySelector('#said').textContent)")


def test_the_page_finds_and_takes_commands(page, program):  # noqa: F811
    desk = Desk(page, program.port)
    desk.rows(ROWS)
    desk.type("services-find", "Gat")
    desk.rows(["Gate"])
    desk.type("connections-find", "no such peer")
    desk.rows([], "connections")
    desk.type("line", "mem\n")
    desk.wait_until("/resident/.test(document.querySelector('#said').textContent)")


def test_the_page_comes_back_with_the_server(page):  # noqa: F811
    with serving("tests/peers/inside.py") as running:
        desk = Desk(page, running.port)
        desk.rows(ROWS)
    desk.wait_until("document.querySelector('#state').textContent === 'connection lost, trying again'")
    with serving("tests/peers/inside.py", port=running.port):
        desk.wait_until("document.querySelector('#state').textContent === 'live'")
        desk.rows(ROWS)


@pytest.mark.parametrize("size", [PHONE, DESK, (320, 568)], ids=str)
def test_the_page_fits(page, program, size):  # noqa: F811
    desk = Desk(page, program.port, size)
    desk.rows(ROWS)
    desk.wait_until(points(2))
    desk.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    desk.wait_until("document.documentElement.scrollWidth <= innerWidth")
    for element in page.find_elements("css selector", "main input, main button, main svg, main pre"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")


def test_the_page_asks_for_the_token_and_keeps_it(page):  # noqa: F811
    with serving("tests/peers/inside.py", "sesame") as running:
        desk = Desk(page, running.port)
        desk.wait_until("document.querySelector('#door').open")
        desk.type("token", "sesam\n")
        desk.wait_until("document.querySelector('#why').textContent === 'that is not the token.'")
        desk.type("token", "sesame\n")
        desk.rows(ROWS)
        page.refresh()
        desk.rows(ROWS)
        desk.wait_until("!document.querySelector('#door').open")
