"""The Autobahn testsuite as a program: where it is, how it is run, what it reports.

Knows neither gws nor what a verdict ought to be.  Of its modes we use two: the fuzzing client, which goes through the
cases against a server, and the fuzzing server, which waits for a client and writes its reports when asked to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "crossbario/autobahn-testsuite"

_STARTS_WITHIN = 60  # seconds, for a container too
_NO_PYTHON2 = 3  # setup.sh's exit status

# As published, but for one thing: the fuzzing server listens on loopback, not on every interface.
_WSTEST = """
import functools
from autobahntestsuite import wstest
wstest.fuzzing.listenWS = functools.partial(wstest.fuzzing.listenWS, interface="127.0.0.1")
wstest.run()
"""


class NoSuite(Exception):
    """There is no testsuite here; the text says why, in one line."""


class CannotRun(Exception):
    """A run did not come to its end: there are no verdicts."""


def find():
    """Return a function from the folder for the reports to the command for wstest, to be run in that folder."""
    reasons = []
    for source in _installed, _container:
        try:
            return source()
        except NoSuite as reason:
            reasons.append(str(reason))
    raise NoSuite("there is no Autobahn testsuite here: " + "; ".join(reasons))


def _installed():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gws-autobahn")
    home = Path(os.environ.get("AUTOBAHN_DIR") or cache).absolute()
    if not (home / "venv/bin/wstest").exists():
        _set_up(home)
    return lambda outdir: [home / "venv/bin/python", "-Euc", _WSTEST]


def _set_up(home):
    """Install the suite into `home` with the setup.sh that is there for it.   Takes a minute."""
    scripts = Path(os.environ.get("AUTOBAHN_SUITE") or ROOT.parent / "shared/autobahn").absolute()
    if not (scripts / "setup.sh").exists():
        raise NoSuite(f"it is not installed in {home}, and {scripts} has no setup.sh")
    print(f"installing the suite in {home}", flush=True)
    done = subprocess.run(["bash", scripts / "setup.sh", home], stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode == _NO_PYTHON2:
        raise NoSuite(f"{scripts}/setup.sh finds no CPython 2.7 (PYTHON2 may name one)")
    if done.returncode:
        raise NoSuite(f"{scripts}/setup.sh failed (see {home}/setup.log)")


def _container():
    if shutil.which("docker") is None:
        raise NoSuite(f"there is no docker to run {IMAGE}")
    if not _docker("version"):
        raise NoSuite(f"docker is there for {IMAGE}, but its daemon does not answer")
    if not _docker("image", "inspect", IMAGE) and not _docker("pull", "--quiet", IMAGE):
        raise NoSuite(f"docker cannot pull {IMAGE}")
    options = ["--rm", "--init", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
    command = ["docker", "run", *options, "--workdir", "/reports", "--volume"]
    return lambda outdir: [*command, f"{outdir}:/reports", IMAGE, "wstest"]


def _docker(*arguments):
    done = subprocess.run(["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0


# ------------------------------------------------------------------------------------------------ running it


@contextlib.contextmanager
def fuzzing_client(wstest, outdir, cases, agent, url):
    """Go through the cases against the server at `url`; the process ends by itself, its reports written."""
    with _running_wstest(wstest, outdir, "fuzzingclient", cases, servers=[{"url": url, "agent": agent}]) as process:
        yield process


@contextlib.contextmanager
def fuzzing_server(wstest, outdir, cases):
    """Wait for clients, until stopped; what comes is its URL."""
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    with _running_wstest(wstest, outdir, "fuzzingserver", cases, url=url) as process:
        wait_until_it_listens(process, port, f"the fuzzing server did not start: see {outdir}/wstest.log")
        yield url


def free_port():
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


def wait_until_it_listens(process, port, otherwise):
    """Wait for a program to listen; CannotRun, with the text `otherwise`, if it does not."""
    until = time.monotonic() + _STARTS_WITHIN
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > until:
            raise CannotRun(otherwise)
        time.sleep(0.05)


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def _running_wstest(wstest, outdir, mode, cases, **spec):
    for old in [*outdir.glob("index.*"), *outdir.glob("*_case_*")]:
        old.unlink()
    spec |= {"outdir": ".", "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    (outdir / "spec.json").write_text(json.dumps(spec))
    command = [*wstest(outdir), "--mode", mode, "--spec", "spec.json", "--webport", "0"]
    with (outdir / "wstest.log").open("wb") as log, running(command, cwd=outdir, stdout=log, stderr=log) as process:
        yield process


@contextlib.contextmanager
def running(command, **options):
    """Run a program; stop it in the end, if it has not ended by then."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def verdicts(outdir, agent):
    """Return {case: [behavior, behaviorClose]} of the cases that were run."""
    index = outdir / "index.json"
    if not index.exists():
        raise CannotRun(f"the suite has written no report: see {outdir}/wstest.log")
    cases = json.loads(index.read_text()).get(agent, {})
    return {case: [found["behavior"], found["behaviorClose"]] for case, found in cases.items()}
