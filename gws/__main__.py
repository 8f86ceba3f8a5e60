"""The command line: `python -m gws COMMAND`, with `--help` for all that a command takes.

Knows how a command is called and how its end is told: by its status, and by one line on stderr if it failed.  What a
command does, other rooms do; one that needs more than a screenful here has its own, and an entry in COMMANDS.

    python -m gws                                           which stream, gevent and loop are in use; what there is
    python -m gws echo --port 8888                          send back whatever comes, until Ctrl-C
    python -m gws echo --certfile cert.pem --origin '*'     the same over TLS, and for pages from anywhere
    python -m gws echo --path /tmp/echo.sock                ... and on a Unix socket

    python -m gws serve chat --workers 4                    the handlers of chat.py, in four processes (with gunicorn)

    python -m gws drop-in -- flask run                      a program of an older library's, over gws and as it is

    python -m gws connect ws://127.0.0.1:8888               type lines, read the answers; Ctrl-D ends it
    printf 'a\\nb\\n' | python -m gws connect ws://127.0.0.1:8888            send two lines, print two answers
    python -m gws connect --ping wss://example.org/ </dev/null              is it alive, and how far away?
    python -m gws connect --wait inf wss://example.org/feed </dev/null >feed.txt        take what comes, to the end
    python -m gws connect -H 'Authorization: Bearer x' --protocol chat wss://example.org/

    python -m gws bench                                     how fast is it here? ten seconds, four loads, a table
    python -m gws bench echo -c 1000 -d 8 --url ws://127.0.0.1:8888/ --json         the same of another server

Messages go to stdout, one to a line, control characters escaped and binary ones as 0x and hex digits; all else goes to
stderr.  Exit status: 0 for a good end, 1 for a bad one, 2 for wrong use, 128 and the signal's number after a signal.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import re
import signal
import ssl
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gevent

import gws.client
import gws.server
from gws import __version__, bench, serving, terminal
from gws.drop_in import launching
from gws.errors import GwsError, HandshakeError
from gws.sockethelper import client_context
from gws.stream import Plain, Stream
from gws.talk import WAIT, Talk, signals_raise
from gws.url import Target
from gws.websocket import WebSocket

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A subcommand: a line about it, what adds its arguments to a parser, and what runs it and returns the status."""

    summary: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit status; SystemExit for wrong use or a signal."""
    terminal.fill_gaps()
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        terminal.write(_version() + ("" if args.version else "\n" + parser.format_help()))
        return 0
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    try:
        return COMMANDS[args.command].run(args)
    except (GwsError, OSError, ImportError) as error:
        terminal.tell(f"gws: {_explain(error)}")
        return 1
    except ValueError as error:  # an option that cannot be meant so
        usage: ArgumentParser = args.parser
        usage.error(terminal.safe(str(error)))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m gws", description="WebSockets for gevent.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="tell the version, and what is in use beneath it")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.summary, description=command.summary, allow_abbrev=False)
        command.arguments(sub)
        sub.add_argument("-v", "--verbose", action="store_true", help="log what happens, to stderr")
        sub.set_defaults(parser=sub)
    return parser


def _version() -> str:
    loop = type(gevent.get_hub().loop)
    library = sys.modules[loop.__module__].get_version()  # of libev or libuv
    stream = "compiled" if Stream is not Plain else "plain, as GWS_PURE says" if os.environ.get("GWS_PURE") else "plain"
    return (
        f"gws {__version__}, stream: {stream} ({Stream.__module__})\n"
        f"gevent {gevent.__version__}, loop: {library} ({loop.__module__})\n"
        f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}\n"
    )


def _explain(error: BaseException) -> str:
    """Say in a line what went wrong."""
    if isinstance(error, HandshakeError):
        return f"the handshake failed: {_refusal(error)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message} (see --cafile and --insecure)"
    if isinstance(error, ssl.SSLError):  # "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"
        return "TLS failed: " + re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)", "", error.strerror or str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error) or type(error).__name__


def _refusal(error: HandshakeError) -> str:
    """Return the status, and the first line of the body if that tells more."""
    body = error.body.decode(errors="replace").strip().splitlines()[:1]
    return ": ".join([str(error), *[line[:200] for line in body if line != error.args[0]]])


# ------------------------------------------------------------------------------------------------------------ echo


def _echo(args: Namespace) -> int:
    server = gws.server.Server()
    server.on("message", WebSocket.write)
    serving.listen(server, args)
    return 0


# --------------------------------------------------------------------------------------------------------- connect


def _connect_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", type=_url, help="ws://... or wss://...")
    add("-H", "--header", action="append", type=_header, default=[], metavar="'NAME: VALUE'", help="send this header")
    add("--protocol", dest="protocols", action="append", default=[], metavar="NAME", help="offer this subprotocol")
    add("--origin", help="send this Origin, as a browser would")
    add("--path", help="connect to this Unix socket, whatever host the URL names")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--cafile", metavar="PEM", help="trust these authorities instead of the system's")
    trust.add_argument("--insecure", action="store_true", help="trust anybody")
    timeout = gws.client.Options.timeout
    add("--timeout", type=float, default=timeout, metavar="SECONDS", help="for connecting (%(default)s)")
    wait = "for late answers, after the end of the input and a pong; inf: until the server closes (%(default)s)"
    add("--wait", type=float, default=WAIT, metavar="SECONDS", help=wait)
    add("--binary", action="store_true", help="send each line as a binary message")
    add("--ping", action="store_true", help="tell the round trip of a ping, first")
    serving.limit_arguments(parser)


def _url(text: str) -> str:
    try:
        Target.of(text)
    except ValueError as error:
        raise ArgumentTypeError(terminal.safe(str(error))) from None
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ArgumentTypeError(f"expected 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()


def _connect(args: Namespace) -> int:
    context = _insecure_context() if args.insecure else client_context(args.cafile) if args.cafile else None
    names = ("protocols", "origin", "path", "timeout")
    options = {name: getattr(args, name) for name in names}
    client = gws.client.new()
    talk = Talk(client, binary=args.binary, ping=args.ping, wait=None if math.isinf(args.wait) else args.wait)
    with terminal.as_found(0, 1), signals_raise():
        client.connect(args.url, headers=args.header, ssl=context, **options, **serving.limits(args))
        return talk.run()


def _insecure_context() -> ssl.SSLContext:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


#: What there is; `bench` and others may be added by their rooms.
COMMANDS = {
    "echo": Command("Send back whatever comes.", serving.listen_arguments, _echo),
    "serve": Command("Serve what a module does, in one process or in several.", serving.arguments, serving.run),
    "connect": Command("Talk to a server from the terminal, or through a pipe.", _connect_arguments, _connect),
    "bench": Command("Put a load on a server, and tell what it bore.", bench.arguments, bench.run),
    "drop-in": Command("Run a program of an older library's on gws.", launching.arguments, launching.run),
}

if __name__ == "__main__":
    sys.exit(main())
