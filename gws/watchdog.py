"""The watchdog, a service: a thin template, to be used as it is or copied and changed (skynet's examples/watchdog.lua).

    watchdog = skynet.newservice("gws.watchdog", agent=ChatAgent)
    skynet.call(watchdog, "start", {"address": "127.0.0.1", "port": 8888})

Each connection gets an agent, a service of its own, which is told `start({"gate", "client", "watchdog"})`: it may ask
the gate to `forward` it the client's messages.   Once the connection is over it is told `disconnect()`, and ended.
Does not know what is said.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from gws import skynet
from gws.errors import ServiceExited
from gws.kind import class_of
from gws.message import Message
from gws.websocket import WebSocket

__all__ = ["Watchdog"]

log = logging.getLogger("gws")


class Watchdog:
    """A watchdog, with a gate of its own.   `agent` is a class of services, or its dotted name."""

    def __init__(self, agent: type | str | None = None) -> None:
        self.agent = agent
        self.agents: dict[WebSocket, str] = {}  # connection -> address of its agent
        self.gate = skynet.newservice("gws.gate")
        skynet.fork(self._hold)

    # ---------------------------------------------------------------------------------------------------- commands

    def start(self, conf: dict[str, Any]) -> Any:
        """Open the gate, and return its address; "agent" in `conf` comes before the one that the service was made with.

        The rest of `conf` is the gate's; see there.   ValueError without an agent; besides, what newservice() raises
        for a name that leads nowhere.   Blocks.
        """
        options, before = dict(conf), self.agent
        self.agent = options.pop("agent", before)
        try:
            class_of(self._agent())  # or the first client would find out
            return skynet.call(self.gate, "open", options)
        except BaseException:
            self.agent = before
            raise

    def stop(self) -> None:
        """Close the gate, and with it every connection, 1001.   Blocks."""
        skynet.call(self.gate, "close")

    def close(self, fd: WebSocket) -> None:
        """Close a connection.   Blocks."""
        skynet.call(self.gate, "kick", fd)

    # ----------------------------------------------------------------------------------------- what the gate tells

    def socket_open(self, fd: WebSocket, addr: Any) -> None:
        """Give the connection an agent; without one it is closed, 1011.   Blocks."""
        try:
            agent = self.agents[fd] = skynet.newservice(self._agent())
            skynet.call(self.gate, "entrust", fd, agent)
            skynet.call(agent, "start", {"gate": self.gate, "client": fd, "watchdog": skynet.self()})
        except Exception:
            if fd.closed:  # the client has left: that is no failure
                return
            skynet.call(self.gate, "kick", fd, 1011, "its agent has failed")
            raise
        finally:
            if fd.closed:  # and we were told so when there was no agent yet
                self._dismiss(fd)

    def socket_data(self, fd: WebSocket, msg: Message) -> None:
        """Hear a message of a connection that the gate was asked to `accept`."""

    def socket_warning(self, fd: WebSocket, size: int) -> None:
        """Hear that `size` KiB wait for a client that reads too slowly; 0 once it has caught up."""
        log.warning("%d KiB wait for %r", size, fd)

    def socket_error(self, fd: WebSocket, err: BaseException) -> None:
        """Hear what has gone wrong; socket_close follows."""
        log.info("%r: %s", fd, err)

    def socket_close(self, fd: WebSocket, code: int, reason: str) -> None:
        """Let the agent go.   Blocks."""
        self._dismiss(fd)

    # ---------------------------------------------------------------------------------------------------- the rest

    def _agent(self) -> type | str:
        if self.agent is None:
            raise ValueError('a watchdog needs to know the class of its agents, "agent"')
        return self.agent

    def _dismiss(self, fd: WebSocket) -> None:
        agent = self.agents.pop(fd, None)
        if agent is None:
            return
        try:
            with suppress(ServiceExited):
                skynet.call(agent, "disconnect")
        finally:
            skynet.kill(agent)

    def _hold(self) -> None:
        """End the gate and the agents when the watchdog ends.   Blocks."""
        try:
            skynet.wait()
        finally:
            for address in (self.gate, *self.agents.values()):
                skynet.kill(address)
