"""Programs in subprocesses: started, listened to, stopped; nothing of them survives the `with`.

Their output is read cooperatively, so that a gws server in this process can talk to a client in that one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess as blocking
import sys
import time
from pathlib import Path

import gevent
import pytest
from gevent import get_hub, socket
from gevent.fileobject import FileObject

import gws

# On libev gevent's child watcher, once it is there, takes every child's status; on libuv gevent's Popen warns of its own
# short sleeps.
if type(get_hub().loop).__module__.startswith("gevent.libev"):
    from gevent import subprocess
else:
    import subprocess

ROOT = Path(__file__).parent.parent
PATIENCE = 20  # seconds for anything that a program is to do; a loaded machine is slow

_PATH = [str(Path(gws.__file__).parent.parent), os.environ.get("PYTHONPATH")]
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
_ENVIRONMENT |= {"PYTHONPATH": os.pathsep.join(filter(None, _PATH)), "PYTHONUNBUFFERED": "1"}


class Program:
    """A running program.   `lines` is what it has said so far, on both of its outputs unless `stderr` is False."""

    def __init__(self, *command, stderr=True, environment=()):
        self.lines = []
        self.port = None
        ours, theirs = os.pipe()
        inbox, self._outbox = os.pipe()
        try:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=inbox,
                stdout=theirs,
                stderr=theirs if stderr else None,
                cwd=ROOT,
                env=_ENVIRONMENT | dict(environment),
            )
        finally:
            os.close(theirs)
            os.close(inbox)
        self._output = FileObject(ours, "r", encoding="utf-8")
        self._input = FileObject(self._outbox, "w", encoding="utf-8")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._input.close()

    @property
    def pid(self):
        """Its process id."""
        return self._process.pid

    @property
    def said(self):
        """All that it has said so far."""
        return "".join(self.lines)

    def read_line(self):
        """Return its next line, "" at the end."""
        with gevent.Timeout(PATIENCE, False):
            self.lines.append(self._output.readline())
            return self.lines[-1]
        raise TimeoutError(f"it said no more than {self.said[-2000:]!r}")

    def write_line(self, line):
        """Write to its standard input."""
        with gevent.Timeout(PATIENCE):
            self._input.write(line + "\n")
            self._input.flush()

    def close_input(self):
        """Let its standard input end."""
        self._input.close()

    def wait(self):
        """Read on to the end of its output, and return its exit status."""
        while self.read_line():
            pass
        return self._process.wait(PATIENCE)

    def send_signal(self, number=signal.SIGTERM):
        """Send it a signal, and do not wait for what it does."""
        self._process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Send it a signal, and return its exit status."""
        self.send_signal(number)
        return self.wait()

    def wait_until_it_listens(self, port):
        """Connect until somebody is there; `port` is then known."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                self.port = port
                return
            except ConnectionRefusedError:
                gevent.sleep(0.02)
        self._process.kill()
        self.wait()
        pytest.fail(f"it does not listen on {port}; it said: {self.said}")


def python(*command, within=(), **options):
    """Start a Python program, with the gws that is tested here; `within` is a command that starts commands."""
    flags = ["-X", "dev"] if sys.flags.dev_mode else []
    return Program(*within, sys.executable, *flags, *command, **options)


def free_port():
    """Return a port that nobody listens on: the kernel's choice, and it does not choose it again so soon."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def node(module):
    """Return the command that runs node, and see to it that there is such a package from npm."""
    here = ROOT / "tests" / "peers"
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        missing("node and npm are not installed: apt-get install npm")
    if not (here / "node_modules" / module / "package.json").exists():
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(here)]
        done = blocking.run(command, capture_output=True, text=True, timeout=180)
        if done.returncode:
            missing(f"npm cannot install {module} (is there a network?): {done.stderr.strip()[-300:]}")
    return found


def missing(what):
    """Skip a test for want of something; where it must not be missing, fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)
