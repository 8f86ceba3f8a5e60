"""The door to a server that is to be loaded: it looks the address up once, and opens connections to it.

Knows nothing of loads.  A client would do more: follow redirects, ask proxies, negotiate.  Here nothing may lead
elsewhere, and nothing is measured but the plain handshake.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from gws import handshake, http, sockethelper
from gws.stream import Stream
from gws.url import Target
from gws.websocket import Limits, WebSocket

__all__ = ["LIMITS", "Door"]

#: Of each connection: no compression.
LIMITS = Limits(max_message=1024 * 1024, compression=None)

_PATIENCE = 5.0  # seconds for one handshake


class Door:
    """Where connections are opened, and whose owner it is."""

    def __init__(self, target: Target):
        self.target = target
        self._context = sockethelper.client_context() if target.secure else None
        self._addresses = [address[0] for _, address in sockethelper.resolve(target.host, target.port)]

    @property
    def loopback(self) -> bool:
        """Whether it leads to this machine only."""
        return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in self._addresses)

    def open(self) -> WebSocket:
        """Open a connection.   Blocks.   HandshakeError or OSError if that does not work out within 5 s."""
        with sockethelper.deadline(_PATIENCE, str(self.target)):
            sock: Any = self._connect()
            if self._context is not None:
                sock = sockethelper.start_tls(sock, self._context, server_hostname=self.target.host)
            stream = Stream(sock, masked=False)
            try:
                return self._shake_hands(stream)
            except BaseException:
                stream.close()
                raise

    def _connect(self) -> Any:
        failure = None
        for address in self._addresses:
            try:
                sock = sockethelper.connect(address, self.target.port)
            except OSError as error:
                failure = error
                continue
            self._addresses = [address]
            return sock
        assert failure is not None
        raise failure

    def _shake_hands(self, stream: Stream) -> WebSocket:
        host, port, path, key = self.target.host, self.target.port, self.target.path, handshake.new_key()
        headers, secure = self.target.credentials, self.target.secure
        stream.write(handshake.upgrade_request(host, port, path, key=key, secure=secure, headers=headers))
        handshake.check_response(http.parse_response(stream.read_head(8192)), key)
        fd = WebSocket(stream, self, LIMITS, server=False, addr=(host, port))
        fd.opened()
        return fd

    def told(self, fd: WebSocket, event: str, value: Any) -> None:
        """Hear from a connection (see `websocket.Owner`); pings are answered without us."""
