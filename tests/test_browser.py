"""A real browser, headless Chromium: the chat in two windows, and what its own WebSocket says of ours.

gws runs in the example's process; what blocks here blocks nobody.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager

import pytest
from programs import PATIENCE, free_port, python

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = next(filter(None, map(shutil.which, ("chromedriver", "chromium.chromedriver"))), None)

PHONE, DESK = (390, 844), (1280, 800)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser with a profile of its own, empty."""
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'gevent-gws[test]'")
    for name, path in (("Chromium", CHROMIUM), ("chromedriver", CHROMEDRIVER)):
        if path is None:
            pytest.skip(f"{name} is not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            environment.delenv(name)  # the driver is on this machine
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        driver.set_script_timeout(PATIENCE)
        yield driver
        driver.quit()


@pytest.fixture
def page(browser):
    """Return the browser, with one window, empty, and an empty log."""
    browser.get_log("browser")
    yield browser
    for window in browser.window_handles[1:]:
        browser.switch_to.window(window)
        browser.close()
    browser.switch_to.window(browser.window_handles[0])
    browser.get("about:blank")


@contextmanager
def serving(*command, port=None):
    """Start a program that listens on the port at the end of its command; see that it ends well."""
    port = port or free_port()
    with python(*command, port) as program:
        program.wait_until_it_listens(port)
        yield program
        assert program.stop() == 0, program.said
        assert "Traceback" not in program.said


# ------------------------------------------------------------------------------------------- the browser's WebSocket


@pytest.fixture
def echo(page):
    """A server with an empty page, and the browser on that page."""
    with serving("tests/peers/page.py") as program:
        page.get(f"http://127.0.0.1:{program.port}/")
        program.page = page
        yield program


OPEN = """
    const done = arguments[arguments.length - 1];
    const ws = new WebSocket(`ws://127.0.0.1:${arguments[0]}/`, arguments[1]);
    ws.binaryType = "arraybuffer";
    const heard = [];
    ws.onerror = () => heard.push("error");
    ws.onclose = ({code, reason, wasClean}) => done([...heard, {code, reason, wasClean}]);
"""


def script(echo, body, *arguments, port=None, protocols=()):
    """Run a script with an open `ws`, and return what it gave to `done()`."""
    return echo.page.execute_async_script(OPEN + body, port or echo.port, list(protocols), *arguments)


TEXTS = [
    "hello",
    "",
    "žluťoučký kůň",
    "\u0000\u0001\n\r\t\u007f\u0080",
    "\u2028\u2029\ufeff\ufffd\uffff",
    "עברית العربية \u202e",
    "中文 日本語 한국어",
    "🐎👩\u200d👩\u200d👧\U0010ffff",
    "x" * 125,
    "x" * 126,
    "é" * 32768,
]


def test_text_comes_back_as_it_was(echo):
    body = """
        const texts = arguments[2];
        ws.onopen = () => texts.forEach(text => ws.send(text));
        ws.onmessage = ({data}) => { if (heard.push(data) === texts.length) done(heard); };
    """
    assert script(echo, body, TEXTS) == TEXTS


def test_binary_comes_back_as_it_was(echo):
    body = """
        const sizes = [0, 1, 125, 126, 65535, 65536, 1048576];
        const make = size => Uint8Array.from({length: size}, (_, at) => at * 7);
        ws.onopen = () => sizes.forEach(size => ws.send(size % 2 ? new Blob([make(size)]) : make(size).buffer));
        ws.onmessage = ({data}) => {
            const expected = make(data.byteLength);
            heard.push([data.byteLength, new Uint8Array(data).every((byte, at) => byte === expected[at])]);
            if (heard.length === sizes.length) done(heard);
        };
    """
    assert script(echo, body) == [[size, True] for size in (0, 1, 125, 126, 65535, 65536, 1048576)]


def test_a_mebibyte_of_text(echo):
    body = """
        const text = "0123456789abcdef".repeat(65536);
        ws.onopen = () => ws.send(text);
        ws.onmessage = ({data}) => done(data === text);
    """
    assert script(echo, body) is True


def test_a_message_over_the_limit(echo):
    body = "ws.onopen = () => ws.send('x'.repeat(1048577));"
    (closed,) = script(echo, body)
    assert (closed["code"], closed["wasClean"]) == (1009, True)
    assert closed["reason"]


def test_the_browser_answers_a_ping(echo):
    body = """
        ws.onopen = () => ws.send("ping");
        ws.onmessage = ({data}) => done(data);
    """
    assert script(echo, body) == "it is there"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (3000, "bye"), (4999, "žluťoučký ☃"), (4000, "r" * 123)])
def test_the_browser_closes(echo, code, reason):
    body = "const given = arguments; ws.onopen = () => ws.close(given[2], given[3]);"
    (closed,) = script(echo, body, code, reason)
    assert (closed["code"], closed["wasClean"]) == (code, True)  # the reason is not echoed
    assert json.loads(echo.read_line()) == {"protocol": None, "code": code, "reason": reason}


def test_the_browser_closes_without_a_code(echo):
    (closed,) = script(echo, "ws.onopen = () => ws.close();")
    assert closed == {"code": 1005, "reason": "", "wasClean": True}
    assert json.loads(echo.read_line())["code"] == 1005


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4999, "žluťoučký ☃"), (4000, "r" * 123)])
def test_the_server_closes(echo, code, reason):
    (closed,) = script(echo, f"ws.onopen = () => ws.send('close {code} {reason}');")
    assert closed == {"code": code, "reason": reason, "wasClean": True}
    assert json.loads(echo.read_line())["code"] == code


def test_the_window_is_closed(echo):
    echo.page.switch_to.new_window("window")
    echo.page.get(f"http://127.0.0.1:{echo.port}/")
    script(echo, "ws.onopen = () => done();")
    echo.page.close()
    assert json.loads(echo.read_line())["code"] == 1001


@pytest.mark.parametrize(
    ("offered", "agreed"), [([], ""), (["v1.gws", "v2.gws"], "v1.gws"), (["x", "v2.gws"], "v2.gws")]
)
def test_subprotocols(echo, offered, agreed):
    assert script(echo, "ws.onopen = () => done(ws.protocol);", protocols=offered) == agreed


def test_a_browser_does_not_go_on_without_the_subprotocol_that_it_wants(echo):
    heard = script(echo, "ws.onopen = () => done('open');", protocols=["unknown"])
    assert heard == ["error", {"code": 1006, "reason": "", "wasClean": False}]


def test_a_page_from_elsewhere_is_refused(echo):
    with serving("tests/peers/page.py") as other:
        heard = script(echo, "ws.onopen = () => done('open');", port=other.port)
    assert heard == ["error", {"code": 1006, "reason": "", "wasClean": False}]
    assert "403" in "".join(entry["message"] for entry in echo.page.get_log("browser"))


def test_a_page_of_no_origin_is_refused(echo):
    echo.page.get(f"http://127.0.0.1:{echo.port}/sandbox")  # it says "Origin: null"
    heard = script(echo, "ws.onopen = () => done('open');")
    assert heard == ["error", {"code": 1006, "reason": "", "wasClean": False}]
    assert "403" in "".join(entry["message"] for entry in echo.page.get_log("browser"))


# ---------------------------------------------------------------------------------------------------------- the chat


class Window:
    """A window on the chat."""

    def __init__(self, browser, port, size=DESK):
        self.browser = browser
        if browser.current_url != "about:blank":
            browser.switch_to.new_window("window")
        self.handle = browser.current_window_handle
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(f"http://127.0.0.1:{port}/")

    def run(self, code, *arguments):
        self.browser.switch_to.window(self.handle)
        return self.browser.execute_script(code, *arguments)

    def wait(self, wanted, code, *arguments):
        """Wait until the script returns what is wanted."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser.switch_to.window(self.handle)
        try:
            WebDriverWait(self.browser, PATIENCE, 0.05).until(lambda _: self.run(code, *arguments) == wanted)
        except TimeoutException:
            assert self.run(code, *arguments) == wanted

    def type(self, where, text):
        """Type, as a person does."""
        self.browser.switch_to.window(self.handle)
        self.browser.find_element("id", where).send_keys(text)

    def enter(self, name):
        self.wait(True, "return document.querySelector('#door').open")
        self.run("document.querySelector('#name').value = ''")
        self.type("name", name + "\n")
        self.wait(False, "return document.querySelector('#door').open")

    def say(self, text):
        self.type("text", text + "\n")

    def wait_for_script(self, *expected):
        """Wait until the conversation is this: ("Ada", "hello") or "Enter Ada."."""
        code = """
            return [...document.querySelectorAll("#lines > :not(.day)")].map(line => line.matches(".stage")
                ? line.textContent : ["who", "text"].map(name => line.querySelector(`.${name}`).textContent))
        """
        self.wait([list(each) if isinstance(each, tuple) else each for each in expected], code)

    def wait_for_people(self, *names):
        self.wait(list(names), "return [...document.querySelectorAll('#here bdi')].map(name => name.textContent)")

    def wait_for_status(self, text):
        self.wait(text, "return document.querySelector('#status').textContent")


def chat(port=None):
    return serving("examples/chat.py", port=port)


def test_two_windows_talk(page):
    with chat() as program:
        ada = Window(page, program.port)
        ada.enter("Ada")
        ada.wait_for_people("Ada")
        ada.say("Is anybody here?")
        ada.wait_for_script("Enter Ada.", ("Ada", "Is anybody here?"))
        bob = Window(page, program.port, PHONE)
        bob.enter("Bob")
        bob.wait_for_people("Ada", "Bob")
        bob.wait_for_script(("Ada", "Is anybody here?"), "Enter Bob.")
        bob.say("I am. <b>žluťoučký</b> &amp;")
        told = ["Enter Ada.", ("Ada", "Is anybody here?"), "Enter Bob.", ("Bob", "I am. <b>žluťoučký</b> &amp;")]
        ada.wait_for_script(*told)
        ada.wait_for_people("Ada", "Bob")
        ada.say("Good.")
        bob.wait_for_script(*told[1:], ("Ada", "Good."))
        page.close()  # Bob's window
        ada.wait_for_people("Ada")
        ada.wait_for_script(*told, ("Ada", "Good."), "Exit Bob.")
        assert page.get_log("browser") == []


def test_whoever_leaves_the_page_leaves_the_room_and_comes_back(page):
    with chat() as program:
        ada = Window(page, program.port)
        ada.enter("Ada")
        ada.wait_for_people("Ada")
        bob = Window(page, program.port)
        bob.enter("Bob")
        ada.wait_for_people("Ada", "Bob")
        bob.run("location.href = 'about:blank'")
        ada.wait_for_people("Ada")
        bob.run("history.back()")
        ada.wait_for_people("Ada", "Bob")


def test_a_restart_leads_to_a_reconnection_and_nothing_is_lost(page):
    with chat() as program:
        ada = Window(page, program.port)
        ada.enter("Ada")
        ada.say("before")
        ada.wait_for_script("Enter Ada.", ("Ada", "before"))
    ada.wait_for_status("The connection is lost. Trying again…")
    ada.say("meanwhile")
    ada.wait("meanwhile", "return document.querySelector('#waiting .text').textContent")
    with chat(program.port) as program:
        ada.wait_for_script("Enter Ada.", ("Ada", "before"), ("Ada", "meanwhile"))
        ada.wait_for_status("")
        ada.wait_for_people("Ada")
        ada.wait(0, "return document.querySelector('#waiting').childElementCount")
        bob = Window(page, program.port)
        bob.enter("Bob")
        bob.wait_for_script(("Ada", "meanwhile"), "Enter Bob.")
        ada.wait_for_script("Enter Ada.", ("Ada", "before"), ("Ada", "meanwhile"), "Enter Bob.")


def test_a_name_is_kept_in_its_window_and_may_be_changed(page):
    with chat() as program:
        ada = Window(page, program.port)
        ada.enter("Ada")
        ada.wait_for_people("Ada")
        page.refresh()
        ada.wait_for_people("Ada")
        ada.run("document.querySelector('#me').click()")
        ada.enter("Countess")
        ada.wait_for_people("Countess")
        bob = Window(page, program.port)
        bob.enter("countess")
        bob.wait_for_people("Countess", "countess 2")


def test_a_name_that_is_refused_is_asked_for_again(page):
    with chat() as program:
        ada = Window(page, program.port)
        ada.wait(True, "return document.querySelector('#door').open")
        ada.run("document.querySelector('#name').removeAttribute('maxlength')")
        ada.type("name", "x" * 33 + "\n")
        ada.wait("expected a name of 1 to 32 characters", "return document.querySelector('#why').textContent")
        ada.enter("Ada")
        ada.wait_for_people("Ada")


def test_enter_sends_and_shift_enter_does_not(page):
    with chat() as program:
        ada = Window(page, program.port)
        ada.enter("Ada")
        ada.type("text", "one\ue008\n\ue008two\n")  # WebDriver's key for Shift, down and up
        ada.wait_for_script("Enter Ada.", ("Ada", "one\ntwo"))
        ada.wait("", "return document.querySelector('#text').value")


@pytest.mark.parametrize("size", [PHONE, DESK, (320, 568)], ids=str)
def test_the_page_fits(page, size):
    """Nothing sticks out, whatever is said; what is for fingers is large enough; what is new is in view."""
    with chat() as program:
        ada = Window(page, program.port, size)
        ada.enter("W" * 32)
        ada.wait_for_people("W" * 32)
        for _ in range(10):
            ada.say("W" * 100)
        ada.wait(10, "return document.querySelectorAll('#lines .line').length")
        ada.wait(True, "return document.documentElement.scrollWidth <= innerWidth")
        ada.wait(True, "return document.documentElement.scrollHeight <= innerHeight")
        ada.wait(True, "const log = document.querySelector('#log'); return log.scrollWidth <= log.clientWidth")
        ada.wait(True, "return at_end()")
        small = """
            return [...document.querySelectorAll("button, textarea")].filter(each => each.checkVisibility())
                .map(each => each.getBoundingClientRect()).filter(({width, height}) => width < 40 || height < 40).length
        """
        ada.wait(0, small)


def test_who_is_here_is_a_tap_away_on_a_phone(page):
    with chat() as program:
        ada = Window(page, program.port, PHONE)
        ada.enter("Ada")
        ada.wait("1 here", "return document.querySelector('#count').textContent")
        visible = "return document.querySelector('#here').checkVisibility()"
        ada.wait(False, visible)
        ada.run("document.querySelector('#count').click()")
        ada.wait(True, visible)
        ada.wait("true", "return document.querySelector('#count').ariaExpanded")


def test_everything_has_a_name_for_those_who_listen(page):
    with chat() as program:
        Window(page, program.port).enter("Ada")
        for element in page.find_elements("css selector", "main, button, textarea, aside, dialog, input"):
            if element.is_displayed():
                assert element.accessible_name, element.get_attribute("outerHTML")
