"""The proxies of examples/deploy, made ready to run: on loopback, in a folder of their own, without privileges.

Knows nothing of gws: where the server listens is told to it.  What is run are the published files; only what names a
port, a certificate, the server or a time is replaced, and each of these must be there to be replaced.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import trustme

DEPLOY = Path(__file__).parent.parent / "examples/deploy"

_STARTS_WITHIN = 20  # seconds

_MAIN = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@dataclass(frozen=True)
class Front:
    """A proxy that can be started: `command` stays in the foreground, and listens on `port` for TLS."""

    folder: Path
    port: int
    command: list[str]

    @property
    def url(self) -> str:
        """Where the world finds it."""
        return f"wss://localhost:{self.port}"


class Nginx(Front):
    """nginx, from Debian's nginx-light."""

    program, check = "nginx", "-t"

    @classmethod
    def of(cls, folder, port):
        """Prepare it in a folder."""
        main = ["-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"]
        return cls(folder, port, [found(cls.program), *map(str, main)])

    def configure(self, server, timeout="60s"):
        """Write its configuration; `server` is (host, port) or the path of a Unix socket."""
        user = (
            f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        )  # or its workers could not reach the folder
        (self.folder / "nginx.conf").write_text(_MAIN.format(folder=self.folder, user=user))
        where = f"unix:{server}" if isinstance(server, str) else f"{server[0]}:{server[1]}"
        replaced = {
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "/etc/ssl/example.org/fullchain.pem": f"{self.folder}/both.pem",
            "/etc/ssl/example.org/privkey.pem": f"{self.folder}/both.pem",
            "server 127.0.0.1:8888;": f"server {where};",
            "proxy_read_timeout 60s;": f"proxy_read_timeout {timeout};",
        }
        (self.folder / "site.conf").write_text(_replace("nginx.conf", replaced))

    def reload(self, pid):
        """Let it take its configuration anew."""
        os.kill(pid, signal.SIGHUP)


class Haproxy(Front):
    """HAProxy, in master-worker mode, as Debian's unit starts it."""

    program, check = "haproxy", "-c"

    @classmethod
    def of(cls, folder, port):
        """Prepare it in a folder."""
        command = [found(cls.program), "-W", "-S", folder / "master.sock", "-db", "-f", folder / "haproxy.cfg"]
        return cls(folder, port, list(map(str, command)))

    def configure(self, server, timeout="60s"):
        """Write its configuration; `server` is (host, port) or the path of a Unix socket."""
        where = f"unix@{server}" if isinstance(server, str) else f"{server[0]}:{server[1]}"
        replaced = {
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/example.org.pem": f"{self.folder}/both.pem",
            "server gws1 127.0.0.1:8888 ": f"server gws1 {where} ",
            "maxconn 20000": "maxconn 200",  # or it wants more descriptors than a user may have
            "timeout tunnel 60s ": f"timeout tunnel {timeout} ",
        }
        (self.folder / "haproxy.cfg").write_text(_replace("haproxy.cfg", replaced))

    def reload(self, pid):
        """Let it take its configuration anew: as SIGUSR2 does, which would be lost while the master starts itself anew."""
        until = time.monotonic() + _STARTS_WITHIN
        while not self._ask("show proc"):
            assert time.monotonic() < until, "HAProxy's master does not answer"
            time.sleep(0.01)
        self._ask("reload")

    def _ask(self, command):
        """Return the first bytes of the master's answer, none if it is not there."""
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionError, FileNotFoundError):
            sock.settimeout(_STARTS_WITHIN)
            sock.connect(str(self.folder / "master.sock"))
            sock.sendall(command.encode() + b"\n")
            return sock.recv(1000)
        return b""


FRONTS = {front.program: front for front in (Nginx, Haproxy)}


def found(program):
    """Return the path of a proxy, or None; Debian has them where only root looks."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


def write_certificate(folder):
    """Write a certificate for localhost and its key into a folder (both.pem), and who vouches for it (ca.pem)."""
    authority = trustme.CA()
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")


def _replace(name, replaced):
    text = (DEPLOY / name).read_text()
    for old, new in replaced.items():
        assert text.count(old) == 1, f"{old!r} is to be found once in {name}"
        text = text.replace(old, new)
    return text
