"""WAMP, version 1, as gevent-websocket spoke it: procedure calls, and publishing to those who have subscribed."""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Callable
from types import FunctionType
from typing import Any

from gws.drop_in.geventwebsocket.exceptions import WebSocketError
from gws.drop_in.geventwebsocket.protocols.base import BaseProtocol
from gws.drop_in.geventwebsocket.utils import get_version

__all__ = ["Channels", "Prefixes", "RemoteProcedures", "WampProtocol", "export_rpc", "serialize"]

_GENERIC = "http://TODO#generic"  # what gevent-websocket says on the wire, to the letter: clients may compare it


def export_rpc(arg: Any = None) -> Any:
    """Mark a method as one that peers may call once its object is registered."""
    if isinstance(arg, FunctionType):
        arg._rpc = arg.__name__  # type: ignore[attr-defined]
    return arg


def serialize(data: Any) -> str:
    """Return what goes over the wire."""
    return json.dumps(data)


class Prefixes:
    """One peer's abbreviations of URIs."""

    def __init__(self) -> None:
        self.prefixes: dict[str, str] = {}

    def add(self, prefix: str, uri: str) -> None:
        """Let `prefix:` stand for `uri`."""
        self.prefixes[prefix] = uri

    def resolve(self, curie_or_uri: str) -> str:
        """Return the whole URI; LookupError for a prefix that nobody has told."""
        prefix, colon, rest = curie_or_uri.partition(":")
        if "://" in curie_or_uri:
            return curie_or_uri
        if not colon or prefix not in self.prefixes:
            raise LookupError(f"{curie_or_uri!r} is no URI, and begins with no known prefix")
        return self.prefixes[prefix] + rest


class RemoteProcedures:
    """What peers may call, by URI."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[..., Any]] = {}

    def register_procedure(self, uri: str, proc: Callable[..., Any]) -> None:
        """Let peers call `proc`."""
        self.calls[uri] = proc

    def register_object(self, uri: str, obj: Any) -> None:
        """Let peers call the methods of `obj` that are marked by `export_rpc`, at `uri` and their names."""
        for _, method in inspect.getmembers(obj, inspect.ismethod):
            if hasattr(method, "_rpc"):
                self.calls[uri + method._rpc] = method

    def call(self, uri: str, args: list[Any]) -> Any:
        """Call a procedure; LookupError if there is none."""
        if uri not in self.calls:
            raise LookupError(f"no such uri {uri!r}")
        return self.calls[uri](*args)


class Channels:
    """What peers may subscribe to, and who has.   One for a server."""

    def __init__(self) -> None:
        self.channels: dict[str, list[Any]] = {}

    def create(self, uri: str, prefix_matching: bool = False) -> None:
        """Make a channel; the prefix matching is not there, as it was not in gevent-websocket."""
        self.channels.setdefault(uri, [])

    def subscribe(self, uri: str, client: Any) -> None:
        """Let a client hear what is published, if there is such a channel."""
        if client not in self.channels.get(uri, [client]):
            self.channels[uri].append(client)

    def unsubscribe(self, uri: str, client: Any) -> None:
        """Let a client hear it no longer."""
        if client in self.channels.get(uri, ()):
            self.channels[uri].remove(client)

    def publish(self, uri: str, event: Any, exclude: Any = None, eligible: Any = None) -> None:
        """Send an event to all subscribers; `exclude` and `eligible` have no effect, as there.   Blocks."""
        message = serialize([WampProtocol.MSG_EVENT, uri, event])
        for client in list(self.channels.get(uri, ())):
            try:
                client.ws.send(message)
            except WebSocketError:
                self.unsubscribe(uri, client)


class WampProtocol(BaseProtocol):
    """Speaks WAMP with one peer.   The application hears the answers on their way out, by its `on_message`."""

    MSG_WELCOME = 0
    MSG_PREFIX = 1
    MSG_CALL = 2
    MSG_CALL_RESULT = 3
    MSG_CALL_ERROR = 4
    MSG_SUBSCRIBE = 5
    MSG_UNSUBSCRIBE = 6
    MSG_PUBLISH = 7
    MSG_EVENT = 8

    PROTOCOL_NAME = "wamp"

    def __init__(self, app: Any):
        super().__init__(app)
        self.procedures = RemoteProcedures()
        self.prefixes = Prefixes()
        self.session_id = secrets.token_hex(8)

    def register_procedure(self, uri: str, proc: Callable[..., Any]) -> None:
        """Let the peer call `proc`."""
        self.procedures.register_procedure(uri, proc)

    def register_object(self, uri: str, obj: Any) -> None:
        """Let the peer call the marked methods of `obj`."""
        self.procedures.register_object(uri, obj)

    def register_pubsub(self, uri: str, prefix_matching: bool = False) -> None:
        """Make a channel, for all the peers of this server."""
        if not hasattr(self.server, "channels"):
            self.server.channels = Channels()
        self.server.channels.create(uri, prefix_matching)

    def do_handshake(self) -> None:
        """Send the welcome.   Blocks."""
        self.app.ws.send(serialize([self.MSG_WELCOME, self.session_id, 1, f"gevent-websocket/{get_version()}"]))

    def on_open(self) -> None:
        """Let the application register what it has, then greet the peer.   Blocks."""
        self.app.on_open()
        self.do_handshake()

    def on_message(self, message: Any) -> None:
        """Do what the peer asks for.   Blocks.   ValueError for what is no WAMP."""
        if message is None:
            return
        data = json.loads(message)
        if not isinstance(data, list) or not data:
            raise ValueError("a message is a list (WAMP 1)")
        kind, count = data[0], len(data)
        if kind == self.MSG_PREFIX and count == 3:
            self.prefixes.add(_text(data[1]), _text(data[2]))
        elif kind == self.MSG_CALL and count >= 3:
            self.rpc_call(data)
        elif kind in (self.MSG_SUBSCRIBE, self.MSG_UNSUBSCRIBE, self.MSG_PUBLISH) and count >= 2:
            self.pubsub_action(data)
        else:
            raise ValueError(f"no message of WAMP 1 that a server hears: {kind!r}")

    def rpc_call(self, data: list[Any]) -> None:
        """Call a procedure, and let the application send the result.   Blocks."""
        call_id, uri = _text(data[1]), self.prefixes.resolve(_text(data[2]))
        try:
            answer = [self.MSG_CALL_RESULT, call_id, self.procedures.call(uri, data[3:])]
        except Exception as error:
            answer = [self.MSG_CALL_ERROR, call_id, *self._get_exception_info(error)]
        self.app.on_message(serialize(answer))

    def pubsub_action(self, data: list[Any]) -> None:
        """Subscribe, unsubscribe, or publish.   Blocks."""
        uri, channels = self.prefixes.resolve(_text(data[1])), getattr(self.server, "channels", None) or Channels()
        if data[0] == self.MSG_PUBLISH:
            if len(data) > 2:
                channels.publish(uri, *data[2:5])
        elif data[0] == self.MSG_SUBSCRIBE:
            channels.subscribe(uri, self.handler.active_client)
        else:
            channels.unsubscribe(uri, self.handler.active_client)

    def _get_exception_info(self, error: Exception) -> list[str]:
        """Return the error's URI, its kind, and its text."""
        return [_GENERIC, str(type(error)), str(error)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a URI, a prefix and a call's id are strings, not {value!r} (WAMP 1)")
    return value
