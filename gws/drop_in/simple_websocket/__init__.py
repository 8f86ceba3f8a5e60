"""simple-websocket, over gws: `Server` for WSGI applications, `Client`, and what they raise.

Not there: `AioServer` and `AioClient`, which are asyncio's; they can be imported, and say so when they are used.
"""

from gws.drop_in.simple_websocket.aiows import AioClient, AioServer
from gws.drop_in.simple_websocket.errors import ConnectionClosed, ConnectionError
from gws.drop_in.simple_websocket.ws import Client, Server

__all__ = ["AioClient", "AioServer", "Client", "ConnectionClosed", "ConnectionError", "Server"]
