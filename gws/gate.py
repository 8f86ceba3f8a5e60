"""skynet's gate, a service: it holds the port, and knows which connection belongs to which agent (service/gate.lua).

    gate = skynet.newservice("gws.gate")
    skynet.call(gate, "open", {"address": "127.0.0.1", "port": 8888, "watchdog": watchdog})

Its watchdog is told `socket_open(fd, addr)`, `socket_data(fd, msg)`, `socket_warning(fd, size)`,
`socket_error(fd, err)` and `socket_close(fd, code, reason)`; an agent gets its clients' messages: `message(fd, msg)`,
or `socket_data(fd, msg)` if it has no such command.
Does not know frames, nor what is done with a message.
Contract with `reading` below: one greenlet reads a connection at a time, in the name of the service that gets it.
Contract with `lookout` below: until somebody gets it, it is not read at all, and yet its end is heard of.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gevent

from gws import skynet
from gws.errors import ConnectionClosed, ServiceExited
from gws.lookout import Lookout, has_messages
from gws.mailbox import Service
from gws.reading import Client
from gws.runner import here
from gws.server import Server
from gws.task import Task
from gws.websocket import WebSocket

__all__ = ["Gate"]


class Gate:
    """A gate.   Nothing is read from a connection until `accept` or `forward` tells whose it is; TCP holds it back."""

    def __init__(self) -> None:
        self._home = here()
        self._watchdog = ""
        self._server: Server | None = None
        self._clients: dict[WebSocket, Client] = {}  # the open connections
        self._lookout = Lookout(self._on_leaving)  # over those that nobody has got yet
        skynet.fork(self._hold)

    def __repr__(self) -> str:
        return f"<Gate {self._server or 'closed'}, watchdog {self._watchdog or '-'}>"

    # ----------------------------------------------------------------------------------------------- the commands

    def open(self, conf: dict[str, Any]) -> Any:
        """Listen, and return the address: (host, port), or a Unix socket's path.   Blocks while a name is resolved.

        `conf` may hold "address", "port" and every other option of `listen()`; "handshake" and "http", callbacks for
        those events; and "watchdog", which is the caller by default.
        RuntimeError if it is open, or closed meanwhile, ValueError without a watchdog; besides, what `Server.start`
        raises.
        """
        if self._server is not None:
            raise RuntimeError(f"{self!r} is open already")
        options = dict(conf)
        watchdog = options.pop("watchdog", None) or skynet.source()
        if watchdog is None:
            raise ValueError('if no service opens it, a gate needs to know its "watchdog"')
        server = self._server = self._make_server(options)
        self._watchdog = watchdog
        try:
            server.start(**options)
        except BaseException:
            self._forget(server)
            raise
        return server.address

    def close(self) -> None:
        """Take no more connections, and close those that are open, 1001; nothing happens if it is closed.   Blocks."""
        server = self._server
        if server is not None:
            server.stop()
            self._forget(server)
            self._lookout.close()

    def forward(self, fd: WebSocket, agent: str | None = None) -> None:
        """Let the service `agent` have what comes: its `message(fd, msg)` is called; by default, the caller's.

        If it has no `message`, it is `socket_data(fd, msg)`, as with a watchdog.
        Messages are handled one after the other: the next is read when the command has returned, or by itself, with
        `fd.read()`, once it has done with this one; `skynet.fork()` is for what takes long.   If another agent has the
        connection, nothing is lost: the new one begins when the message at hand is done (if the old agent ends
        meanwhile, within `close_timeout`).
        An agent that ends takes its connections with it, 1011.
        ConnectionClosed if the connection is gone, ServiceExited if the agent is, CallFailed if it has neither.
        """
        client, agent = self._client(fd), _named(agent)
        commands = skynet.find(agent).commands
        command = "socket_data" if "message" not in commands and "socket_data" in commands else "message"
        self._give(client, skynet.find(agent, command), command)

    def accept(self, fd: WebSocket) -> None:
        """Let the watchdog have what comes, as `socket_data(fd, msg)`; also what an agent has had so far."""
        client = self._client(fd)
        self._give(client, skynet.find(self._watchdog, "socket_data"), "socket_data")

    def entrust(self, fd: WebSocket, agent: str | None = None) -> None:
        """Let the connection end, 1011, if the service `agent` ends before somebody gets it; by default, the caller.

        The watchdog does so before it starts an agent, who may take its time.   ConnectionClosed if the connection is
        gone, ServiceExited if the agent is.
        """
        client = self._client(fd)
        client.entrust(skynet.find(_named(agent)))

    def kick(self, fd: WebSocket, code: int = 1000, reason: str = "") -> None:
        """Close a connection; if it is gone, nothing happens.   ValueError for what no Close may carry.   Blocks."""
        if not (isinstance(fd, WebSocket) and fd.closed):
            self._known(fd).fd.close(code, reason)

    # ------------------------------------------------------------------------------------- a connection's greenlet

    def _on_connection(self, fd: WebSocket, addr: Any) -> None:
        """Tell the watchdog, and wait for the end: others read.   Blocks."""
        self._clients[fd] = Client(fd, self._home)
        self._lookout.add(fd)
        self._tell("socket_open", fd, addr)
        fd.ended.wait()

    def _on_warning(self, fd: WebSocket, size: int) -> None:
        with suppress(ServiceExited):
            self._tell("socket_warning", fd, size)

    def _on_error(self, fd: WebSocket, err: BaseException) -> None:
        with suppress(ServiceExited):
            self._tell("socket_error", fd, err)

    def _on_disconnect(self, fd: WebSocket, code: int, reason: str) -> None:
        self._lookout.discard(fd)
        self._clients.pop(fd).leave()
        with suppress(ServiceExited):  # whoever watches no longer need not be told
            self._tell("socket_close", fd, code, reason)

    def _on_leaving(self, fd: WebSocket) -> None:
        """Hear that a peer has left before anybody got its connection; the hub calls this."""
        gevent.spawn(self._see_off, self._clients[fd])

    def _see_off(self, client: Client) -> None:
        """Let somebody get what the peer has said, if it has; then there is nothing to wait for.   Blocks."""
        fd = client.fd
        if has_messages(fd):
            fd.ended.wait(fd.close_timeout)
        if client.idle and not fd.closed:
            client.gone = True
            fd.hear_out()

    def _tell(self, command: str, *args: Any) -> None:
        watchdog = skynet.find(self._watchdog, command)
        watchdog.post(Task(watchdog, command, args, self._home))

    # --------------------------------------------------------------------------------------------------- the rest

    def _make_server(self, options: dict[str, Any]) -> Server:
        server = Server()
        for event in ("connection", "warning", "error", "disconnect"):
            server.on(event, getattr(self, f"_on_{event}"))
        for event in ("handshake", "http"):
            if event in options:
                server.on(event, options.pop(event))
        return server

    def _hold(self) -> None:
        """End the connections when the gate ends.   Blocks."""
        try:
            skynet.wait()
        finally:
            if self._server is not None:
                self._server.stop(timeout=0)
            self._lookout.close()

    def _forget(self, server: Server) -> None:
        if self._server is server:
            self._server = None

    def _give(self, client: Client, service: Service, command: str) -> None:
        self._lookout.discard(client.fd)
        client.give(service, command)

    def _client(self, fd: WebSocket) -> Client:
        """Return what is known of a connection; ConnectionClosed if it is gone.   Blocks while it is just about to."""
        if isinstance(fd, WebSocket) and fd.closed:
            raise fd.over()
        client = self._known(fd)
        if client.doomed:
            raise ConnectionClosed(1011, "its agent has ended")
        if client.gone:
            fd.ended.wait()
            raise fd.over()
        return client

    def _known(self, fd: WebSocket) -> Client:
        if fd not in self._clients:
            raise ValueError(f"{fd!r} is no connection of this gate")
        return self._clients[fd]


def _named(agent: str | None) -> str:
    agent = agent or skynet.source()
    if agent is None:
        raise ValueError("the gate needs to know the agent, if no service calls it")
    return agent
