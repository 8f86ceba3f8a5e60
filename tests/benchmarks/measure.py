"""One measurement: a fresh server on one processor, load.c on another, and what that said.

Does not know which servers and loads there are, nor what the figures are for.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 20  # seconds for a server to listen, and to go
LIMIT = 120  # seconds for a load


class Failed(Exception):
    """There is no figure: the server does not start, or not a single connection was opened."""


def build_load(folder, packed=False):
    """Compile load.c, if it is newer than what is in the folder, and return the program's path; `packed`: with zlib."""
    source, program = HERE / "load.c", Path(folder) / ("packedload" if packed else "load")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        more = ["-DPACKED", "-lz"] if packed else []
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, source, *more], check=True)
    return program


def raise_limit():
    """Open as many files as we may, and so may whoever we start; return that number."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def measure(load, server, environment, arguments, processors):
    """Start the server (a command that lacks the port), put the load on it, and return its figures as a dict."""
    port = _free_port()
    with _serving([*_on(processors[0]), *server, str(port)], environment, port) as pid:
        mode, *options = arguments
        command = [*_on(processors[1]), str(load), mode, str(port), *options, "-P", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode not in (0, 1):
        raise Failed(done.stderr.strip().replace("\n", "; ") or f"the load ended with {done.returncode}")
    figures = json.loads(done.stdout)
    if done.stderr:
        figures["failure"] = done.stderr.splitlines()[0]
    return figures


@contextlib.contextmanager
def _serving(command, environment, port):
    """Run a server that listens on the port, and give its process's number."""
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            if not _listens(server, port):
                output.seek(0)
                raise Failed(output.read().decode(errors="replace").strip().rpartition("\n")[2] or "it does not listen")
            yield server.pid  # taskset has become the server: exec keeps the number
        finally:
            _end(server)


def _listens(server, port):
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        time.sleep(0.01)
    return False


def _end(server):
    """Kill it: it has nothing to lose, and some take their time to go."""
    server.kill()
    server.wait(PATIENCE)


def _on(processor):
    return ["taskset", "-c", str(processor)]


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
